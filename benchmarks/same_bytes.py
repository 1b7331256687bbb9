"""One cache built four ways: twice in this process, on Ray, killed half way. The same bytes?

    python benchmarks/same_bytes.py examples/camvid.toml --out runs/same_bytes

Then a bit is flipped, and `cache verify` has to find and name it. Prints a table; exits with 1
where two builds differ. About ten minutes for CamVid and COCO on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path


def command(*arguments: str) -> list[str]:
    """The CLI in this interpreter."""
    return [sys.executable, "-m", "stillroom", *arguments]


def build(run_file: str, cache: Path, *more: str) -> tuple[float, str]:
    """Build a cache; wall seconds, and the last line that the command printed."""
    began = time.perf_counter()
    arguments = command("cache", "build", run_file, "--set", f"cache.path={cache}", *more)
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - began, done.stdout.strip().splitlines()[-1]


def build_until_half(run_file: str, cache: Path, parts: int) -> int:
    """Build a cache and kill -9 the process when half of the shards are committed."""
    arguments = command("cache", "build", run_file, "--set", f"cache.path={cache}")
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    while committed(cache) < parts // 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return committed(cache)


def committed(cache: Path) -> int:
    """Shards with a manifest part."""
    return len(list((cache / "manifest").glob("*/*/*.parquet")))


def digests(cache: Path) -> dict[str, str]:
    """sha256 of every file but the manifest, whose column `seconds` tells builds apart."""
    return {
        str(path.relative_to(cache)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(cache.rglob("*"))
        if path.is_file() and path.relative_to(cache).parts[0] != "manifest"
    }


def flip(cache: Path) -> Path:
    """Flip one bit in the middle of the largest object."""
    victim = max((path for path in cache.rglob("c.*")), key=lambda path: path.stat().st_size)
    with victim.open("r+b") as file:
        file.seek(victim.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return victim


def main() -> None:
    """Build, compare, break, verify, mend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_file")
    parser.add_argument("--out", type=Path, default=Path("runs/same_bytes"))
    options = parser.parse_args()
    run_file, out = options.run_file, options.out
    seconds, said = build(run_file, out / "first")
    first, parts = digests(out / "first"), committed(out / "first")
    print(f"{len(first)} files, {parts} shards: {said}")
    rows = [("inline", seconds, True)]
    seconds, _ = build(run_file, out / "second")
    rows.append(("inline again", seconds, digests(out / "second") == first))
    seconds, _ = build(run_file, out / "ray", "--runner", "ray")
    rows.append(("ray", seconds, digests(out / "ray") == first))
    done = build_until_half(run_file, out / "killed", parts)
    before = {p: p.stat().st_mtime_ns for p in (out / "killed/manifest").glob("*/*/*.parquet")}
    seconds, said = build(run_file, out / "killed")
    kept = all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    same = digests(out / "killed") == first
    rows.append((f"killed at {done} of {parts} shards, resumed", seconds, same and kept))
    print(f"resumed: {said}; committed shards left alone: {kept}")
    seconds, said = build(run_file, out / "first")
    rows.append(("second call on a whole cache", seconds, digests(out / "first") == first))
    print(said)
    for name, taken, same in rows:
        print(f"{name:45} {taken:7.1f} s   {'same bytes' if same else 'DIFFERENT'}")
    victim = flip(out / "second")
    found = subprocess.run(
        command("cache", "verify", str(out / "second")), stdout=subprocess.PIPE, text=True
    )
    print(f"flipped a bit of {victim}; verify exits with {found.returncode}:")
    print("\n".join(line for line in found.stdout.splitlines() if "fault " in line))
    sound = subprocess.run(command("cache", "verify", str(out / "ray")), stdout=subprocess.PIPE)
    print(f"verify of the untouched build exits with {sound.returncode}")
    if not all(same for _, _, same in rows) or found.returncode != 1 or sound.returncode:
        sys.exit(1)


if __name__ == "__main__":
    main()
