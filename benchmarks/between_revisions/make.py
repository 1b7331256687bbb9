"""Make caches, runs and a sweep with the code of one checkout, and keep what it says of them.

    git worktree add ../before main
    python benchmarks/between_revisions/make.py ../before --data ../shared/data --out ../made
    python benchmarks/between_revisions/compare.py ../made

The run files are its examples, cut down by changes.toml, on 46 frames of CamVid, 12 photos of COCO
and drawn clips. One build and two trainings are interrupted. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from safetensors import safe_open

HERE = Path(__file__).parent
FRAMES = {  # folder of data, which of its files: every so many-th, and so many at most
    "camvid/train": (9, 40),
    "camvid/trainannot": (9, 40),
    "camvid/test": (38, 6),
    "camvid/testannot": (38, 6),
    "coco/train2017": (22, 6),
    "coco/val2017": (22, 6),
    "weights": (1, None),
}
COMMANDS = {  # in order, with the folder that is whole after it
    'cache build camvid_all_terms.toml --set cache.artifacts=["logits","confidence"]': "",
    "cache extend camvid_all_terms.toml": "",
    "cache adapt camvid_all_terms.toml": "runs/camvid.cache",
    "cache transcode runs/camvid.cache runs/compact.cache --preset compact --shard-frames 16": (
        "runs/compact.cache"
    ),
    "cache build video_teacher.toml": "runs/video_teacher.cache",
    "train video_teacher.toml": "runs/video_teacher",
    "cache build video.toml": "runs/video.cache",
    "train camvid_all_terms.toml": "runs/camvid_all_terms",
    "train video.toml": "runs/video",
    "sweep sweep.toml": "runs/sweep",
}


class Interrupted(NamedTuple):
    """A command that is stopped by a signal as soon as a file is there."""

    command: str
    made: str
    whole: str  # what it would have been
    sight: str
    sent: signal.Signals


INTERRUPTED = [
    Interrupted(
        "cache build video.toml --set cache.path=runs/killed.cache",
        "runs/killed.cache",
        "runs/video.cache",
        "manifest/*/*/*.parquet",
        signal.SIGKILL,
    ),
    Interrupted(
        "train video.toml --set train.path=runs/killed",
        "runs/killed",
        "runs/video",
        "last.pt",
        signal.SIGKILL,
    ),
    Interrupted(
        "train camvid_all_terms.toml --set train.path=runs/stopped",
        "runs/stopped",
        "runs/camvid_all_terms",
        "last.pt",
        signal.SIGINT,
    ),
]
QUESTIONS = """
cache verify runs/camvid.cache
cache verify runs/compact.cache
cache verify runs/video.cache
cache info runs/camvid.cache
cache info runs/compact.cache
cache info runs/video.cache
cache stats runs/camvid.cache
cache fidelity camvid_all_terms.toml --frames 2
cache fidelity video.toml --frames 2
eval runs/camvid_all_terms teacher:fpn camvid_all_terms.toml
eval runs/video teacher:heavy video.toml --video
""".strip().splitlines()
VARYING = {  # keys of documents that the clock or the machine decides, and advice in prose
    "cost", "created_by", "frames_per_second", "latency", "pace", "path", "paths",
    "peak_memory_mb", "produce_seconds", "recommendation", "seconds", "seconds_per_step", "speed",
    "wait_seconds", "waiting", "wall_seconds",
}  # fmt: skip


class Stillroom:
    """The command line of one checkout in one folder, on one thread."""

    def __init__(self, code: Path, folder: Path) -> None:
        self.folder = folder
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        quiet = {"PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.environment = {**os.environ, "PYTHONPATH": str(code.resolve()), **threads, **quiet}

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command."""
        arguments = [sys.executable, "-m", "stillroom", *command.split(" ")]
        return subprocess.Popen(
            arguments,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str) -> str:
        """Return what a command prints to stdout.

        Raises:
            RuntimeError: it fails.
        """
        process = self.start(command)
        printed, errors = process.communicate()
        if process.returncode:
            end = (printed + errors)[-1500:]
            raise RuntimeError(f"{command}: exit code {process.returncode}\n{end}")
        return printed

    def ask(self, question: str) -> Any:
        """Return a command's JSON."""
        return json.loads(self.run(f"{question} --json"))

    def interrupt(self, one: Interrupted) -> None:
        """Start a command and stop it on the way."""
        process = self.start(one.command)
        while process.poll() is None and not any((self.folder / one.made).glob(one.sight)):
            time.sleep(0.02)
        early = process.poll() is not None
        process.send_signal(one.sent)
        process.communicate()
        if early or process.returncode == 0:
            raise RuntimeError(f"{one.command}: over before it was interrupted")


def steady(document: Any) -> Any:
    """Return a document without what may differ."""
    if isinstance(document, dict):
        return {key: steady(each) for key, each in document.items() if key not in VARYING}
    return [steady(each) for each in document] if isinstance(document, list) else document


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def weights(path: Path) -> dict[str, Any]:
    with safe_open(path, "np") as file:
        about = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del about["stillroom"]  # its version
    about.pop("sha256", None)  # of what follows, in later versions
    about["config"] = steady(json.loads(about["config"]))
    return about | {
        name: f"{array.dtype} {array.shape} {digest(array.tobytes())}"
        for name, array in arrays.items()
    }


def manifest_part(path: Path) -> dict[str, Any]:
    file = pq.ParquetFile(path)
    table = file.read().drop_columns(["seconds"])
    about = json.loads(table.schema.metadata[b"stillroom"])
    del about["part_crc32c"]  # the seal covers the seconds
    groups = file.metadata.to_dict()["row_groups"]
    stored = [
        [each[key] for key in ("path_in_schema", "physical_type", "compression", "encodings")]
        for group in groups
        for each in group["columns"]
    ]
    return {"rows": table.to_pylist(), "about": about, "stored": stored}


def contents(folder: Path) -> dict[str, Any]:
    """Return by file of a cache, a run or a sweep what no two revisions may differ in."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet":
            found[name] = manifest_part(path)
        elif folder.suffix == ".cache":
            found[name] = digest(re.sub(rb'"created_by": *"[^"]*"', b"", path.read_bytes()))
        elif path.suffix == ".json":
            found[name] = steady(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [steady(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".safetensors":
            found[name] = weights(path)
    return found


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Put changes into a document, table by table."""
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = changed(old, value) if both else value
    return merged


def toml(value: Any) -> str:
    if isinstance(value, dict):
        entries = (f"{json.dumps(key)} = {toml(each)}" for key, each in value.items())
        return "{" + ", ".join(entries) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def lay_out(out: Path, code: Path, data: Path) -> None:
    """Copy a few frames to out/shared/data, and write the run files into out/work."""
    for name, (every, most) in FRAMES.items():
        (out / "shared/data" / name).mkdir(parents=True)
        for path in sorted((data / name).iterdir())[::every][:most]:
            shutil.copy(path, out / "shared/data" / name)
    (out / "work").mkdir()
    shutil.copy(HERE / "sweep.toml", out / "work")
    for name, changes in tomllib.loads((HERE / "changes.toml").read_text()).items():
        example = tomllib.loads((code / f"examples/{name}.toml").read_text())
        lines = [f"{key} = {toml(value)}\n" for key, value in changed(example, changes).items()]
        (out / f"work/{name}.toml").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("code", type=Path, help="the checkout whose code makes them")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args()
    lay_out(options.out, options.code, options.data)
    stillroom = Stillroom(options.code, options.out / "work")
    for command in COMMANDS:
        print(command, flush=True)
        stillroom.run(command)
    for one in INTERRUPTED:
        print(one.sent.name, one.command, flush=True)
        stillroom.interrupt(one)
    answers = {question: stillroom.ask(question) for question in QUESTIONS}
    (options.out / "answers.json").write_text(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
