"""What the losses of Xie et al. (2018) are worth on CamVid test, from one cache.

    python benchmarks/camvid_xie.py --out runs/camvid_xie --parallel 2

Builds the cache of examples/camvid.toml where it is not there yet, scores the teacher, trains every
variant with every seed, scores each on CamVid test, and prints the table of docs/results/camvid.md.
All by the commands that a user would type, printed as they run. A second call goes on where the
first was stopped. About ten minutes a run on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RUN_FILE = "examples/camvid.toml"
LABELS_ONLY = ['terms=[{name="cross_entropy"}]', "train.streams={camvid={batch=8}}"]
L_P = '{name="probability_l2",teacher="fpn",weight=4.0}'
EIGHTH = "camvid={batch=8,every=8}"
REST = 'rest={source="camvid",batch=6,labelled=false,every=8,complement=true}'
VARIANTS = {
    "CE": LABELS_ONLY,
    "CE + L_p": [f'terms=[{{name="cross_entropy"}},{L_P}]', LABELS_ONLY[1]],
    "1/8 labels: CE": [LABELS_ONLY[0], f"train.streams={{{EIGHTH}}}"],
    "1/8 labels: CE, batch 14": [LABELS_ONLY[0], "train.streams={camvid={batch=14,every=8}}"],
    "1/8 labels: CE + teacher on the rest": [
        f"train.streams={{{EIGHTH},{REST}}}",
        "train.unlabelled_weight=1.0",
    ],
    "CE + L_p + L_c": [LABELS_ONLY[1]],
    "CE + L_p + L_c + COCO": [],
}


def stillroom(*arguments: str, threads: int) -> dict:
    """Run one command of the CLI with --json and return its document."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "stillroom", *arguments, "--json"]
    print(shlex.join(["stillroom", *arguments]), file=sys.stderr)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def run(name: str, overrides: list[str], seed: int, out: Path) -> dict:
    """Train and score one variant with one seed; a finished one is only read."""
    folder = out / f"{slug(name)}-seed{seed}"
    result = folder / "test.json"
    made_by = {"overrides": overrides, "run_file": Path(RUN_FILE).read_text()}
    if result.exists():
        document = json.loads(result.read_text())
        if document.get("made_by") == made_by:
            return document
    sets = [f"train.path={folder}", f"train.seed={seed}", *overrides]
    arguments = [part for each in sets for part in ("--set", each)]
    trained = stillroom("train", RUN_FILE, *arguments, threads=1)
    scored = stillroom("eval", str(folder), RUN_FILE, threads=1)
    document = {"train": trained, "test": scored, "made_by": made_by}
    result.write_text(json.dumps(document, indent=2))
    return document


def slug(name: str) -> str:
    """A folder name for a variant."""
    kept = "".join(c if c.isalnum() else "-" for c in name.lower())
    return "-".join(part for part in kept.split("-") if part)


def table(found: dict[tuple[str, int], dict], teacher: dict, classes: list[str]) -> str:
    """The results as Markdown."""
    lines = [
        "| run | seed | test mIoU | pixel accuracy | s / step | waiting | "
        + " | ".join(classes)
        + " |",
        "|---" * (6 + len(classes)) + "|",
    ]

    def row(name: str, seed: str, test: dict, pace: str, wait: str) -> str:
        each = " | ".join(
            "-" if entry["iou"] is None else f"{entry['iou']:.3f}" for entry in test["classes"]
        )
        scores = f"{test['miou']:.4f} | {test['pixel_accuracy']:.4f}"
        return f"| {name} | {seed} | {scores} | {pace} | {wait} | {each} |"

    lines.append(row("teacher", "", teacher, "", ""))
    for (name, seed), document in found.items():
        pace = document["train"]["seconds"] / document["train"]["steps"]
        wait = document["train"]["wait_seconds"] / document["train"]["seconds"]
        lines.append(row(name, str(seed), document["test"], f"{pace:.2f}", f"{wait:.1%}"))
    return "\n".join(lines)


def main() -> None:
    """Parse, run everything, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/camvid_xie"))
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stillroom("cache", "build", RUN_FILE, threads=options.parallel)
    scored = options.out / "teacher.json"
    if not scored.exists():
        document = stillroom("eval", "teacher:fpn", RUN_FILE, threads=options.parallel)
        scored.write_text(json.dumps(document, indent=2))
    teacher = json.loads(scored.read_text())
    jobs = [(name, seed) for seed in options.seeds for name in options.only]
    with ThreadPoolExecutor(options.parallel) as pool:
        documents = pool.map(lambda job: run(job[0], VARIANTS[job[0]], job[1], options.out), jobs)
        found = dict(zip(jobs, documents, strict=True))
    print(table(found, teacher, [entry["name"] for entry in teacher["classes"]]))


if __name__ == "__main__":
    main()
