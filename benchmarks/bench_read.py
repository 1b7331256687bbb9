"""Random frames a second: stillroom's reader against Zarr's and other caches', in one run.

    python benchmarks/bench_read.py --out runs/bench_read

Real logits and penultimate features of the CamVid teacher, 128 frames. Every peer reads in spawned
processes of its own that wait while another is timed; rounds go round all peers, and the median
of each is reported, so that a noisy machine disturbs all alike. "CPU us" is the processor time of a
frame in one process, which other programs disturb least. The page cache is warm. Peers that are not
installed are listed as such (benchmarks/requirements.txt, in an environment of its own).
`--baseline CHECKOUT` times another checkout of stillroom in the same run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from read_peers import PEERS, SET, SOURCE, Place, bytes_on_disk, prepare

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
ARTIFACTS = ("logits", "features/penultimate")
MODES = {"1 process": (1, 1), "2 processes": (2, 1), "2 threads": (1, 2)}
PATIENCE_S = 180


def make_truth(root: Path, frames: int) -> None:
    """The teacher's output on the first frames of CamVid's train split."""
    from stillroom.stages.models.build_teacher import build_teacher
    from stillroom.stages.models.teachers.smp import SmpTeacherConfig
    from stillroom.stages.sources.camvid import CLASSES, CamVidConfig, open_camvid

    config = SmpTeacherConfig(
        kind="smp",
        architecture="FPN",
        encoder="tu-tf_efficientnet_lite0",
        weights=DATA / "weights" / "camvid_fpn_lite0.safetensors",
        mean=(127, 127, 127),
        std=(128, 128, 128),
        classes=CLASSES,
    )
    teacher, source = build_teacher(config), open_camvid(CamVidConfig(root=DATA / "camvid"))
    kept: dict[str, list[np.ndarray]] = {artifact: [] for artifact in ARTIFACTS}
    for i in range(frames):
        output = teacher(source.load(i).image[None])
        kept["logits"].append(output["logits"].numpy())
        kept["features/penultimate"].append(output["features/penultimate"].numpy())
    for artifact, arrays in kept.items():
        np.save(Place(root, root, artifact).truth_path, np.concatenate(arrays))


def make_cache(root: Path, name: str) -> None:
    """A cache of both artifacts: of a preset, or "byte": uint8 steps, which Zarr's users decode."""
    from stillroom.storage_specs.layout import ArraySpec
    from stillroom.storage_specs.manifest import FrameRow
    from stillroom.storage_specs.presets import load_preset
    from stillroom.storage_specs.store import Cache

    byte = {"codec": "byte", "compressor": "blosc"}
    overrides = dict.fromkeys(("logits", "features"), byte) if name == "byte" else None
    preset = load_preset("fast" if name == "byte" else name, overrides)
    arrays = {artifact: Place(root, root, artifact).truth for artifact in ARTIFACTS}
    specs = [
        ArraySpec(name, x.shape[1:], storage.codec, storage.compressor, {"stride": 4})
        for name, x in arrays.items()
        for storage in [preset.storage(name)]
    ]
    count = len(arrays["logits"])
    cache = Cache.create(root / f"{name}.cache")
    made = cache.define(SOURCE, SET, {"benchmark": "read"}, count, preset.shard_frames, specs)
    for shard in set(range(made.shards)) - made.committed():
        writer = made.writer(shard)
        for i in made.shard_range(shard):
            writer.put(
                FrameRow(i, f"{i:05d}"), {name: np.array(x[i]) for name, x in arrays.items()}
            )
        writer.commit()


def serve(connection: Any, name: str, place: Place, checkout: str | None) -> None:
    """A reading process: opens one peer, then does what it is told until the pipe closes."""
    if checkout:
        sys.path.insert(0, checkout)
    read = PEERS[name].open(place)
    connection.send("ready")
    while True:
        try:
            task, *arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = largest_error(read, place) if task == "check" else rate(read, *arguments)
        except Exception as error:  # such as a reader that two threads may not share
            answer = error_line(error)
        connection.send(answer)


def error_line(error: Exception) -> str:
    """What went wrong, short enough for a table."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:60]


def largest_error(read: Any, place: Place) -> float:
    """Largest absolute difference from the truth over all frames; also warms caches."""
    truth = place.truth
    worst = 0.0
    for i, x in enumerate(truth):
        got = np.asarray(read(i))
        if got.dtype == np.float32:
            worst = max(worst, float(np.abs(got - x).max()))
    return worst


def rate(read: Any, frames: int, seconds: float, threads: int, seed: int) -> tuple[float, float]:
    """Frames a second of `threads` threads that read at random for so long; CPU seconds a frame."""
    counts = [0] * threads
    took = [0.0] * threads
    faults: list[Exception] = []

    def work(thread: int) -> None:
        order = np.random.default_rng([seed, thread]).integers(0, frames, 65536).tolist()
        began = now = time.perf_counter()
        try:
            while now - began < seconds:
                for _ in range(4):
                    read(order[counts[thread] % len(order)])
                    counts[thread] += 1
                now = time.perf_counter()
        except Exception as error:  # raised again below, by the thread that is asked
            faults.append(error)
        took[thread] = now - began

    cpu = time.process_time()
    if threads == 1:
        work(0)
    else:
        workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if faults:
        raise faults[0]
    speed = sum(count / elapsed for count, elapsed in zip(counts, took, strict=True))
    return speed, (time.process_time() - cpu) / sum(counts)


class Reader:
    """Two processes that read through one peer."""

    def __init__(self, name: str, place: Place, checkout: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(theirs, name, place, checkout), daemon=True
            )
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        for pipe in self.pipes:
            self.answer(pipe)

    def answer(self, pipe: Any) -> Any:
        """What a process says next; TimeoutError if it hangs."""
        if not pipe.poll(PATIENCE_S):
            raise TimeoutError(f"no answer in {PATIENCE_S} s")
        return pipe.recv()

    def ask(self, processes: int, *task: Any) -> list[Any]:
        """Give the first processes one task at the same time; their answers."""
        for pipe in self.pipes[:processes]:
            pipe.send(task)
        return [self.answer(pipe) for pipe in self.pipes[:processes]]

    def largest_error(self) -> float:
        """Of all frames; RuntimeError if they cannot be read."""
        error: float | str = self.ask(1, "check")[0]
        if isinstance(error, str):
            raise RuntimeError(error)  # noqa: TRY004 - the other process's fault, told as text
        return error

    def close(self) -> None:
        """End both."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.close()
            process.join(5)
            if process.is_alive():
                process.terminate()


def contenders(names: list[str], baseline: Path | None) -> dict[str, tuple[str, str | None]]:
    """Label -> (peer, checkout): the peers, and the baseline's readers beside ours."""
    chosen: dict[str, tuple[str, str | None]] = {name: (name, None) for name in names}
    if baseline is not None:
        for name in ("stillroom, stored", "stillroom", "stillroom exact"):
            if name in names:
                chosen[f"{name} (baseline)"] = (name, str(baseline.resolve()))
    return chosen


def measure(place: Place, chosen: dict[str, tuple[str, str | None]], options: Any) -> list[dict]:
    """Rows of the table of one artifact."""
    rows: list[dict[str, Any]] = []
    readers: dict[str, Reader] = {}
    for label, (name, checkout) in chosen.items():
        peer = PEERS[name]
        mine = replace(place, folder=place.folder / name.replace(" ", "_"))
        row: dict[str, Any] = {"peer": label, "yields": peer.yields}
        rows.append(row)
        try:
            if not peer.installed():
                row["error"] = "not installed"
                continue
            prepare(peer, mine)
            readers[label] = Reader(name, mine, checkout)
            row["max_error"] = readers[label].largest_error()
            row["bytes_per_frame"] = bytes_on_disk(peer.on_disk(mine)) / len(place.truth)
        except Exception as error:  # a peer that fails is a line of the table
            row["error"] = error_line(error)
            if label in readers:
                readers.pop(label).close()
    timings = rounds_of(readers, options, len(place.truth))
    for reader in readers.values():
        reader.close()
    for row in rows:
        for mode in (*MODES, "CPU us"):
            measured = timings.get((row["peer"], mode))
            if isinstance(measured, str):
                row[mode] = measured
            elif measured:
                row[mode] = statistics.median(measured)
                row[f"{mode}, all"] = measured
    return rows


def rounds_of(
    readers: dict[str, Reader], options: Any, frames: int
) -> dict[tuple[str, str], list[float] | str]:
    """Frames a second of each round by reader and mode, or why there are none; and CPU times."""
    timings: dict[tuple[str, str], Any] = {}
    for turn in range(-1, options.rounds):  # the first warms, and does not count
        for mode, (processes, threads) in MODES.items():
            for label, reader in readers.items():
                if isinstance(timings.get((label, mode)), str):
                    continue
                seconds = options.seconds if turn >= 0 else 0.05
                answers = reader.ask(processes, "rate", frames, seconds, threads, turn + 1)
                wrong = [answer for answer in answers if isinstance(answer, str)]
                if wrong:
                    timings[label, mode] = wrong[0]
                elif turn >= 0:
                    timings.setdefault((label, mode), []).append(sum(each[0] for each in answers))
                    if mode == "1 process":
                        timings.setdefault((label, "CPU us"), []).append(answers[0][1] * 1e6)
    return timings


def markdown(artifact: str, shape: tuple[int, ...], rows: list[dict[str, Any]]) -> str:
    """One table, an artifact's."""
    megabytes = 4 * float(np.prod(shape)) / 1e6
    zarr = {
        "stored": next((r for r in rows if r["peer"] == "zarr[i], stored"), {}),
        "decoded": next((r for r in rows if r["peer"] == "zarr[i] + affine"), {}),
    }
    lines = [
        f"### {artifact}, {'x'.join(map(str, shape))} ({megabytes:.2f} MB as float32)",
        "",
        "| reader | gives | bytes/frame | max error | 1 process | MB/s | 2 processes | 2 threads "
        "| CPU us | against zarr[i]: wall, CPU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not isinstance(row.get("1 process"), float):
            why = row.get("error") or row.get("1 process")
            lines.append(f"| {row['peer']} | {row['yields']} | {why} | | | | | | | |")
            continue
        decoded = row["yields"] == "decoded"
        error = f"{row['max_error']:.2g}" if decoded else ""
        other = zarr[row["yields"]]
        ratio = ""
        if "1 process" in other:
            wall = row["1 process"] / other["1 process"]
            ratio = f"{wall:.1f}, {other['CPU us'] / row['CPU us']:.1f}"
        speed = f"{row['1 process'] * megabytes:,.0f}" if decoded else ""
        rates = [x if isinstance(x := row[mode], str) else f"{x:,.0f}" for mode in MODES]
        lines.append(
            f"| {row['peer']} | {row['yields']} | {row['bytes_per_frame']:,.0f} | {error} | "
            f"{rates[0]} | {speed} | {rates[1]} | {rates[2]} | {row['CPU us']:,.0f} | {ratio} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench_read"))
    parser.add_argument("--peers", default="all", help="all, or first words: stillroom,zarr,...")
    parser.add_argument("--artifacts", default=",".join(ARTIFACTS))
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--baseline", type=Path, help="another checkout of stillroom")
    options = parser.parse_args()
    root = options.out
    root.mkdir(parents=True, exist_ok=True)
    if not Place(root, root, ARTIFACTS[-1]).truth_path.exists():
        make_truth(root, options.frames)
    for name in ("byte", "fast", "exact"):
        make_cache(root, name)
    wanted = options.peers.split(",")
    unknown = [w for w in wanted if w != "all" and not any(n.startswith(w) for n in PEERS)]
    if unknown:
        parser.error(f"no peer begins with {unknown[0]!r}; known: {', '.join(PEERS)}")
    names = [n for n in PEERS if wanted == ["all"] or any(n.startswith(w) for w in wanted)]
    report: dict[str, Any] = {}
    for artifact in options.artifacts.split(","):
        place = Place(root, root / "peers" / artifact.replace("/", "_"), artifact)
        rows = measure(place, contenders(names, options.baseline), options)
        report[artifact] = rows
        print(markdown(artifact, place.truth.shape[1:], rows), end="\n\n", flush=True)
    (root / "reading.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
