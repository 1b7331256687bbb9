"""Sweeps: one cache, many students, each in a process of its own.

`swept` is a sweep of two variants and two seeds, two students at a time, one of whom was
interrupted before; `alone` has one of these variants again, one student at a time, and one that
fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from stillroom.cli import main
from stillroom.commands.show import sweeps
from stillroom.pipeline.sweep import tables
from stillroom.pipeline.sweep.file import load_sweep
from stillroom.pipeline.sweep.results import SweepResult, best_row, spread
from stillroom.pipeline.sweep.rows import rows_of
from stillroom.pipeline.sweep.run import Hooks, plan_sweep, run_sweep
from stillroom.pipeline.sweep.state import SweepRecords
from stillroom.pipeline.sweep.sweep_settings import slug
from stillroom.pipeline.sweep.trial_process import EventWriter
from stillroom.pipeline.sweep.trials import TrialJob, run_trials
from stillroom.stages.models.teachers.python import PythonTeacherConfig
from stillroom.stages.train.run_folder import write_json
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.fingerprint import Digest, fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from stillroom.pipeline.sweep.file import Sweep, Trial
    from stillroom.pipeline.sweep.trials import TrialEvent
    from stillroom.stages.train.job import Progress

NETWORKS = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, classes, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Conv2d(3, 4, 4, 4)
        self.classifier = nn.Conv2d(4, classes, 1)

    def forward(self, images):
        return {"logits": self.classifier(self.body(images).relu()), "features": {}}

def teacher(classes=9):
    return Tiny(classes, 3)

def student(num_classes):
    return Tiny(num_classes, torch.initial_seed() % 1000)
"""
RUN = """
sources = { street = { kind = "demo", clips = 2, frames_per_clip = 3, height = 32, width = 48 } }
teachers = { tiny = { kind = "python", target = "sweep_networks:teacher", device = "cpu" } }
cache = { path = "street.cache", canvas = [32, 48], threads = 1, artifacts = ["logits"] }
student = { kind = "python", target = "sweep_networks:student" }
terms = [{ name = "cross_entropy" }, { name = "pixelwise_kl", teacher = "tiny" }]
train = { path = "unused", streams = { street = { batch = 2 } }, steps = 6, log_every = 2 }
evaluate = { source = "street" }
"""
SWEEP = """
run = "run.toml"
path = "a"
seeds = [0, 1]
parallel = 2
[variants]
"CE" = { terms = [{ name = "cross_entropy" }] }
"CE + KL" = {}
"""
ALONE = """
run = "run.toml"
path = "b"
[variants]
"no labels" = { "train.streams" = { street = { batch = 2, labelled = false } } }
"CE" = { terms = [{ name = "cross_entropy" }] }
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of all tests here, with a run file."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        (folder / "sweep_networks.py").write_text(NETWORKS)
        (folder / "run.toml").write_text(RUN)
        (folder / "a.toml").write_text(SWEEP)
        (folder / "b.toml").write_text(ALONE)
        yield folder


@pytest.fixture(scope="module")
def swept(place: Path) -> Result:
    trial = student(load_sweep(Path("a.toml")), "CE", 0)
    build_and_interrupt(trial)
    shown = stillroom("a.toml", "--dry-run", "--json")
    states = {(each["name"], each["seed"]): each["state"] for each in shown["runs"]}
    assert states == {
        ("teacher:tiny", None): "new",
        ("CE", 0): "begun",
        ("CE", 1): "new",
        ("CE + KL", 0): "new",
        ("CE + KL", 1): "new",
    }
    done = CliRunner().invoke(main, ["sweep", "a.toml", "--per-class"])
    assert done.exit_code == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def alone(place: Path, swept: Result) -> Result:
    Path("b").mkdir()
    shutil.copy("a/teacher-tiny.json", "b")
    return CliRunner().invoke(main, ["sweep", "b.toml"])


def build_and_interrupt(trial: Trial) -> None:
    from stillroom.pipeline.build.run import build
    from stillroom.pipeline.training import train_run

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    build(trial.run)
    with pytest.raises(KeyboardInterrupt):
        train_run(trial.run, stop)


def stillroom(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["sweep", *arguments])
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def student(sweep: Sweep, row: str, seed: int) -> Trial:
    return next(trial for trial in sweep.students if (trial.row, trial.seed) == (row, seed))


def record(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "sweep.json").read_text())
    return found


def sweep_with(text: str, *, run: str = "run.toml", **more: Any) -> Sweep:
    path = Path(f"{abs(hash(text))}.toml")
    path.write_text(f'run = "{run}"\npath = "{path.stem}"\n{text}')
    return load_sweep(path, **more)


def faults_of(text: str, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        sweep_with(text, **more)
    return str(caught.value)


@pytest.mark.slow
def test_every_variant_is_trained_with_every_seed_and_scored(swept: Result) -> None:
    shown = json.loads(Path("a/results.json").read_text())
    rows = {row["name"]: row for row in shown["rows"]}
    assert list(rows) == ["teacher:tiny", "CE", "CE + KL"]
    assert [each["seed"] for each in rows["CE"]["students"]] == [0, 1]
    assert [each["seed"] for each in rows["CE + KL"]["students"]] == [0, 1]
    trained = record("a/ce-kl-seed1")
    assert trained["train"]["steps"] == 6
    assert set(trained["train"]["losses"]) == {
        "loss",
        "street/cross_entropy",
        "street/pixelwise_kl/tiny",
    }
    assert trained["made_by"]["config"]["train"]["seed"] == 1
    assert trained["made_by"]["run_file"] == RUN
    assert record("a/ce-seed1")["made_by"]["overrides"] == {"terms": [{"name": "cross_entropy"}]}
    assert 50 < trained["peak_memory_mb"] < 20_000
    assert shown["failed"] == []
    assert " ".join(shown) == (
        "sweep run set command_line seeds parallel threads baseline best rows failed"
    )
    assert " ".join(shown["rows"][1]) == (
        "name overrides students miou pixel_accuracy tc tc_visible tc_shared stay stability "
        "seconds_per_step waiting peak_memory_mb gain iou stopped"
    )
    assert " ".join(shown["rows"][1]["students"][0]) == (
        "seed folder miou pixel_accuracy iou seconds_per_step waiting peak_memory_mb tc tc_visible "
        "stability tc_by_class tc_shared stay validation"
    )
    assert " ".join(trained) == "train test peak_memory_mb scored made_by ran"
    assert " ".join(trained["ran"]) == "node gpus began ended"
    assert trained["ran"]["began"] < trained["ran"]["ended"]
    assert " ".join(trained["made_by"]) == (
        "sweep run run_file set command_line variant overrides config"
    )
    planned = stillroom("a.toml", "--dry-run", "--json")
    assert " ".join(planned) == "missing_shards runs"
    assert " ".join(planned["runs"][0]) == "name seed state folder chosen differences"


@pytest.mark.slow
def test_the_table_is_what_the_records_say(swept: Result) -> None:
    documents = [record(f"a/ce-kl-seed{seed}") for seed in (0, 1)]
    base = [record(f"a/ce-seed{seed}")["test"]["miou"] for seed in (0, 1)]
    miou = [each["test"]["miou"] for each in documents]
    row = json.loads(Path("a/results.json").read_text())["rows"][2]
    assert row["miou"] == pytest.approx(
        {"mean": np.mean(miou), "std": np.std(miou, ddof=1), "min": min(miou), "max": max(miou),
         "n": 2}
    )  # fmt: skip
    assert row["gain"] == pytest.approx(np.mean(miou) - np.mean(base))
    pace = [each["train"]["seconds"] / 6 for each in documents]
    assert row["seconds_per_step"]["mean"] == pytest.approx(np.mean(pace))
    waits = [each["train"]["wait_seconds"] / each["train"]["seconds"] for each in documents]
    assert row["waiting"]["mean"] == pytest.approx(np.mean(waits))
    for place, name in enumerate(entry["name"] for entry in documents[0]["test"]["classes"]):
        iou = [each["test"]["classes"][place]["iou"] for each in documents]
        known = [each for each in iou if each is not None]
        assert (
            row["iou"][name] is None
            if not known
            else row["iou"][name]["mean"] == pytest.approx(np.mean(known))
        )
    line = next(line for line in swept.stdout.splitlines() if line.startswith("CE + KL"))
    words = line.split()
    assert words[3:8] == [
        "2", f"{np.mean(miou):.4f}", f"{min(miou):.4f}", "to", f"{max(miou):.4f}",
    ]  # fmt: skip
    page = Path("a/table.md").read_text()
    assert f"| CE + KL | 2 | {np.mean(miou):.4f} | {min(miou):.4f} to {max(miou):.4f} |" in page
    assert "| teacher:tiny | 1 |" in page


@pytest.mark.slow
def test_the_charts_show_every_row(swept: Result) -> None:
    with Image.open("a/miou.png") as dots, Image.open("a/classes.png") as bars:
        assert dots.height > 3 * 34
        assert bars.height > dots.height
        colours = {colour for _, colour in dots.getcolors(2**20) or []}
    assert (0xD5, 0x5E, 0x00) in colours  # the line of the baseline


def test_a_row_has_one_colour_in_both_charts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillroom.pipeline.sweep import chart as sweep_chart

    seen: list[Any] = []
    monkeypatch.setattr(sweep_chart, "_draw_dots", lambda *given: seen.append(given[4]))
    monkeypatch.setattr(sweep_chart, "iou_chart", lambda *_, colours, **__: seen.append(colours))
    sweep = sweep_with("variants = { a = {}, b = {} }")
    test = {"miou": 0.5, "pixel_accuracy": 0.5, "classes": [{"name": "sky", "iou": 0.5}]}
    made = {"test": test, "train": {"seconds": 1.0, "steps": 1, "wait_seconds": 0.0}}
    rows = rows_of(sweep, {student(sweep, "b", 0): {**made, "peak_memory_mb": 100.0}})
    sweep_chart.draw_scores(place / "miou.png", sweep, rows)
    sweep_chart.draw_classes(place / "classes.png", sweep, rows)
    assert seen[0] == seen[1]
    assert len(set(seen[0].values())) == len(rows) == 3  # with those that are not done yet


@pytest.mark.slow
def test_what_is_done_is_read(swept: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def begins(*_: object, **__: object) -> None:
        raise AssertionError("a process was begun")

    before = Path("a/results.json").read_bytes()
    monkeypatch.setattr(subprocess, "Popen", begins)
    again = stillroom("a.toml", "--json")
    assert again == json.loads(before)
    assert Path("a/results.json").read_bytes() == before


@pytest.mark.slow
def test_students_side_by_side_are_those_that_were_trained_alone(alone: Result) -> None:
    """And one that was interrupted is one that was not: a/ce-seed0 was."""
    from stillroom.stages.models.tensor_file import read_tensors

    mine, theirs = (read_tensors(Path(each, "ce-seed0", "model.safetensors")) for each in "ab")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value.numpy(), theirs[name].numpy())
    assert record("a/ce-seed0")["test"]["miou"] == record("b/ce-seed0")["test"]["miou"]


@pytest.mark.slow
def test_a_student_is_trained_again_from_the_run_file_in_its_folder(swept: Result) -> None:
    """Alone, in another process of as many threads: the same losses."""
    train = [sys.executable, "-m", "stillroom", "train", "a/ce-seed1/run.toml", "--json"]
    subprocess.run([*train, "--set", "train.path=again"], check=True, capture_output=True)
    mine, theirs = (
        json.loads(Path(each, "result.json").read_text()) for each in ("a/ce-seed1", "again")
    )
    assert mine["losses"] == theirs["losses"]
    assert Path("a/ce-seed1/run.toml").read_text().startswith("# CE, seed 1, of a.toml, run in ")


@pytest.mark.slow
def test_students_are_trained_here_where_ray_cannot_be_imported(swept: Result) -> None:
    Path("without/ray").mkdir(parents=True)
    Path("without/ray/__init__.py").write_text('raise ImportError("there is no Ray here")')
    Path("c.toml").write_text('run = "run.toml"\npath = "c"\nvariants = { a = {} }')
    paths = os.pathsep.join([str(Path("without").absolute()), *sys.path])
    command = [sys.executable, "-m", "stillroom", "sweep", "c.toml", "--set", "train.steps=2"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert record("c/a-seed0")["train"]["steps"] == 2


@pytest.mark.slow
def test_what_fails_is_named_and_the_others_go_on(alone: Result) -> None:
    assert alone.exit_code == 2
    said = "error: no labels, seed 0: term cross_entropy has nothing to read: no stream is labelled"
    assert said in alone.stderr
    shown = json.loads(Path("b/results.json").read_text())
    students = {row["name"]: len(row["students"]) for row in shown["rows"]}
    assert students == {"teacher:tiny": 1, "no labels": 0, "CE": 1}
    assert [(each["row"], each["seed"]) for each in shown["failed"]] == [("no labels", 0)]
    assert "| no labels | 0 | - |" in Path("b/table.md").read_text()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo hello; echo no torch >&2; exit 3", "exit code 3; the last line of {}: no torch"),
        ("kill -9 $$", "ended by SIGKILL, most often for want of memory; the last line of {}: not"),
    ],
)
def test_a_process_that_says_nothing_is_reported(
    place: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    program = Path("program").absolute()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    sweep = sweep_with(f"variants = {{ a = {{}} }} # {script}")
    log = sweep.config.path / "logs" / "a.log"
    log.parent.mkdir(parents=True)
    events: list[str] = []
    job = TrialJob(sweep.students[0], {"threads": 1}, log)
    failed = run_trials([job], [None], 1, lambda event: events.append(event.kind))
    assert events == ["begun", "retried", "begun", "failed"]
    assert said.format(log) in failed[job.trial]


@pytest.mark.slow
def test_a_changed_variant_is_refused_or_trained_anew(
    swept: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("a", "changed")
    Path("changed.toml").write_text(
        SWEEP.replace("{}", '{ "terms.1.weight" = 2.0 }').replace('"a"', '"changed"')
    )
    refused = CliRunner().invoke(main, ["sweep", "changed.toml"])
    assert refused.exit_code == 2
    named = "CE + KL, seed 0: changed/ce-kl-seed0\n    terms[1].weight   folder 1   run 2"
    assert named in refused.stderr
    assert "CE + KL, seed 1" in refused.stderr
    assert "\n  CE, seed" not in refused.stderr
    assert "--retrain" in refused.stderr
    before = record("changed/ce-kl-seed0")
    begun: list[str] = []

    def trains(jobs: Iterable[TrialJob], *_: object) -> dict[Trial, str]:
        for job in jobs:
            assert not job.trial.place.exists()
            job.trial.place.mkdir()
            job.trial.record.write_text(json.dumps(before))
            begun.append(job.trial.name)
        return {}

    monkeypatch.setattr("stillroom.pipeline.sweep.run.run_trials", trains)
    plan = plan_sweep(load_sweep(Path("changed.toml")), ["CE + KL"])
    found = run_sweep(plan, retrain=True)
    assert begun == ["CE + KL, seed 0", "CE + KL, seed 1"]
    assert record("changed/ce-kl-seed0.before1") == before
    assert [len(row.students) for row in found.rows] == [1, 2, 2]  # CE is read, though not chosen


@pytest.mark.slow
def test_a_student_is_scored_again_where_the_test_frames_changed(swept: Result) -> None:
    sweep = load_sweep(Path("a.toml"))
    run = sweep.run.model_copy(
        update={"sources": {**sweep.run.sources, "fresh": sweep.run.sources["street"].model_copy(
            update={"seed": 9})},
            "evaluate": sweep.run.evaluate.model_copy(update={"source": "fresh"})}
    )  # fmt: skip
    trials = tuple(
        replace(
            trial, run=run.model_copy(update={"train": trial.run.train, "terms": trial.run.terms})
        )
        for trial in sweep.students
    )
    changed = replace(sweep, run=run, students=trials, teachers=())
    assert {state.kind for state in plan_sweep(changed).states.values()} == {"trained"}


@pytest.mark.slow
def test_a_student_of_another_cache_is_not_taken_for_this_ones(swept: Result) -> None:
    known = Path("a/ce-seed0/fingerprints.json")
    before = known.read_text()
    known.write_text(json.dumps({**json.loads(before), "street/frames": "0" * 64}))
    sweep = load_sweep(Path("a.toml"))
    state = plan_sweep(sweep).states
    found = {trial.name: state.kind for trial, state in state.items()}
    known.write_text(before)
    assert found["CE, seed 0"] == "changed"
    assert found["CE, seed 1"] == "done"


@pytest.mark.slow
def test_ctrl_c_lets_students_finish_their_step_and_save(
    swept: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_with('variants = { "long" = { "train.steps" = 1000000 } }')
    processes: list[subprocess.Popen[bytes]] = []

    def watched(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(started(*arguments, **options))
        return processes[-1]

    def stop(event: TrialEvent) -> None:
        if event.kind == "step":
            raise KeyboardInterrupt

    started = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", watched)
    plan = plan_sweep(sweep)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(replace(plan, chosen=plan.chosen[1:]), hooks=Hooks(on_event=stop))
    assert [process.returncode for process in processes] == [130]
    trial = student(sweep, "long", 0)
    assert (trial.record.parent / "last.pt").exists()
    assert "saved" in (sweep.config.path / "logs" / "long-seed0.log").read_text()
    after = load_sweep(sweep.file)
    states = plan_sweep(after).states
    assert [state.kind for trial, state in states.items() if trial.seed is not None] == ["begun"]


def test_a_student_whose_sweep_has_gone_ends_as_after_ctrl_c() -> None:
    reading, writing = os.pipe()
    events = EventWriter(writing)
    events.write(step=1)
    assert json.loads(os.read(reading, 100)) == {"step": 1}
    os.close(reading)
    with pytest.raises(KeyboardInterrupt):
        events.write(step=2)
    os.close(writing)


def test_a_dry_run_begins_nothing(place: Path) -> None:
    Path("dry.toml").write_text(SWEEP.replace('"a"', '"dry"'))
    shown = CliRunner().invoke(
        main, ["sweep", "dry.toml", "--dry-run", "--set", "cache.path=dry.cache"]
    )
    assert shown.exit_code == 0, shown.stderr
    assert "CE + KL          1  to be trained  dry/ce-kl-seed1" in shown.stdout
    assert "dry.cache lacks 2 shards" in shown.stdout
    assert not Path("dry").exists()
    assert not Path("dry.cache").exists()


def test_all_faults_of_a_sweep_file_are_named_at_once(place: Path) -> None:
    said = faults_of(
        """
        baseline = "CF"
        set = { "train.lag_every" = 5, "train.seed" = 4 }
        [variants]
        "CE" = { "train.step" = 3, "terms.9.weight" = 1.0 }
        "CE + KL" = { "cache.path" = "other", "train.seed" = 3, "terms.1.teacher" = "tony" }
        "all" = { train = { steps = 3 } }
        """
    )
    for fault in (
        "baseline: no variant 'CF'; did you mean 'CE'?",
        "set.train.seed: `seeds` of the sweep says it",
        "run.toml: train.lag_every: unknown key; did you mean 'log_every'?",
        "variants.'CE'.train.step: unknown key; did you mean 'steps'?",
        "variants.'CE'.terms.9.weight: '9' should be a position from 0 to 1 (2 adds one)",
        "variants.'CE + KL'.cache.path: all variants share this",
        "variants.'CE + KL'.train.seed: `seeds` of the sweep says it",
        "variants.'CE + KL'.terms.1.teacher: no teacher 'tony' in this file; did you mean 'tiny'?",
        "variants.'all'.train: this would replace the whole section",
    ):
        assert fault in said
    assert said.count("lag_every") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = [0]\nvariants = { a = {} }", "seed: unknown key; did you mean 'seeds'?"),
        ("seeds = [0, 0]\nvariants = { a = {} }", "a seed is named twice"),
        ("seeds = [-1]\nvariants = { a = {} }", "seeds.0: "),
        ("seeds = []\nvariants = { a = {} }", "seeds: "),
        ("parallel = 0\nvariants = { a = {} }", "parallel: "),
        ("variants = {}", "variants or search: required; there is nothing to train"),
        ('variants = { "+" = {} }', "no letter and no digit"),
        ('variants = { "a+b" = {}, "A B" = {} }', "'a+b' and 'A B' would share the folders a-b-se"),
    ],
)
def test_what_a_sweep_file_cannot_mean_is_refused(place: Path, text: str, said: str) -> None:
    assert said in faults_of(text)


def test_a_run_without_frames_to_score_on_is_refused(place: Path) -> None:
    Path("unscored.toml").write_text(RUN.replace('evaluate = { source = "street" }', ""))
    assert "evaluate: required here" in faults_of("variants = { a = {} }", run="unscored.toml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "CE+KL"], "no such variant; did you mean 'CE + KL'?"),
        (["--seeds", "0,x"], "expected numbers, as in --seeds 0,1,2"),
        (["--set", "train.path=x"], "--set train.path: `path` of the sweep says it"),
        (["--set", "train.stepz=1"], "did you mean 'steps'?"),
    ],
)
@pytest.mark.slow
def test_what_an_option_cannot_mean_is_refused(
    swept: Result, arguments: list[str], said: str
) -> None:
    done = CliRunner().invoke(main, ["sweep", "a.toml", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr


def test_overrides_reach_every_variant_and_its_own_win(place: Path) -> None:
    sweep = sweep_with(
        'set = { "train.steps" = 7 }\nvariants = { a = {}, b = { "train.steps" = 9 } }',
        overrides=["train.log_every=1"],
        seeds=(4, 0),
    )
    trains = [trial.run.train for trial in sweep.students if trial.run.train is not None]
    assert [(one.seed, one.steps, one.log_every) for one in trains] == [
        (0, 7, 1), (0, 9, 1), (4, 7, 1), (4, 9, 1),
    ]  # fmt: skip
    assert sweep.baseline == "a"
    assert SweepResult(sweep, [], {}).to_dict()["command_line"] == ["train.log_every=1"]
    assert f"`stillroom sweep {sweep.file} --set train.log_every=1`" in tables.markdown(sweep, [])


@pytest.mark.slow
def test_seeds_choose_what_is_trained_and_the_others_stay_in_the_table(swept: Result) -> None:
    shown = stillroom("a.toml", "--seeds", "1,5", "--dry-run", "--json")
    chosen = [(each["name"], each["seed"]) for each in shown["runs"] if each["chosen"]]
    students = [one for one in chosen if one[1] is not None]
    assert students == [("CE", 1), ("CE + KL", 1), ("CE", 5), ("CE + KL", 5)]
    table = Path("a/table.md").read_text()
    shown = stillroom("a.toml", "--seeds", "1", "--json")
    assert Path("a/table.md").read_text() == table
    assert [len(row["students"]) for row in shown["rows"]] == [1, 2, 2]


@pytest.mark.slow
def test_a_student_that_failed_before_its_first_checkpoint_is_to_be_trained(place: Path) -> None:
    text = 'variants = { a = { "train.optimiser.lr" = 1e15, "train.steps" = 3 } }'
    sweep = sweep_with(text)
    failed = run_sweep(plan_sweep(sweep)).failed
    assert ["not finite" in problem for problem in failed.values()] == [True]
    mended = sweep.file.read_text().replace("1e15", "1e-3")
    sweep.file.write_text(mended)
    plan = plan_sweep(load_sweep(sweep.file))
    assert [state.kind for trial, state in plan.states.items() if trial.seed == 0] == ["new"]
    assert not run_sweep(plan).failed


def test_a_teacher_that_was_scored_by_an_older_digest_of_its_weights_stays_scored(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = sweep_with("variants = { a = {} }")
    (teacher,) = sweep.teachers
    scored = SweepRecords(sweep.run).state(teacher).scored
    weights = Digest("the new form", older="the old form")
    monkeypatch.setattr(PythonTeacherConfig, "identity", lambda _: {"weights": weights})
    for form, kind in (("the old form", "done"), ("another", "new")):
        known = {**scored, "teacher": fingerprint({"weights": form})}
        write_json(teacher.record, {"scored": known})
        assert SweepRecords(sweep.run).state(teacher).kind == kind


def test_what_was_scored_is_scored_again_where_the_way_of_scoring_changes(place: Path) -> None:
    sweep = sweep_with("variants = { a = {} }")
    (teacher,) = sweep.teachers
    scored = SweepRecords(sweep.run).state(teacher).scored
    assert set(scored) == {"source", "canvas", "teacher"}  # as earlier versions wrote it
    evaluate = sweep.run.evaluate.model_copy(update={"size": "own", "ignore": ("car",)})
    changed = replace(teacher, run=teacher.run.model_copy(update={"evaluate": evaluate}))
    found = SweepRecords(sweep.run).state(changed).scored
    assert found == {**scored, "size": "own", "ignore": ["car"]}


def test_only_the_teachers_of_a_sweep(place: Path) -> None:
    plan = plan_sweep(sweep_with("variants = { a = {}, b = {} }"), teachers_only=True)
    assert [trial.row for trial in plan.chosen] == ["teacher:tiny"]
    assert len(plan.states) == 3


def test_a_teacher_of_other_classes_is_not_scored_and_that_is_said(place: Path) -> None:
    other = '"teachers.other" = { kind = "python", target = "sweep_networks:teacher", classes = 3 }'
    sweep = sweep_with(f"set = {{ {other} }}\nvariants = {{ a = {{}} }}")
    assert [trial.row for trial in sweep.teachers] == ["teacher:tiny"]
    assert sweep.unscored == ("other",)
    said = sweeps.plan(plan_sweep(sweep))
    assert "teacher other is not scored: its classes are not those of the labels" in said


@pytest.mark.slow
def test_the_memory_of_a_student_that_is_scored_again_is_what_its_training_took(
    swept: Result,
) -> None:
    folder = "a/ce-seed0"
    before = record(folder)
    kept = {**before, "scored": {}, "peak_memory_mb": 1e6}
    Path(folder, "sweep.json").write_text(json.dumps(kept))
    stillroom("a.toml", "--json")
    assert record(folder)["peak_memory_mb"] == 1e6
    assert record(folder)["scored"] == before["scored"]
    Path(folder, "sweep.json").unlink()
    stillroom("a.toml", "--json")
    assert record(folder)["peak_memory_mb"] is None  # that of another process is not known
    Path(folder, "sweep.json").write_text(json.dumps(before))


def test_numbers_over_seeds_are_those_of_the_textbook() -> None:
    values = [0.5, 0.25, 0.75, 0.1]
    found = spread([*values, None])
    assert found is not None
    assert (found.n, found.min, found.max) == (4, 0.1, 0.75)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert spread([0.3]) == replace(found, mean=0.3, std=None, min=0.3, max=0.3, n=1)
    assert spread([None]) is None


def test_a_table_says_how_many_seeds_there_are_and_how_they_were_trained(place: Path) -> None:
    sweep = sweep_with("parallel = 3\nseeds = [0, 1]\nvariants = { a = {}, b = {} }")

    def made(miou: float, iou: float | None) -> dict[str, Any]:
        test = {"miou": miou, "pixel_accuracy": 0.5, "classes": [{"name": "sky", "iou": iou}]}
        train = {"seconds": 10.0, "steps": 4, "wait_seconds": 2.0}
        return {"test": test, "train": train, "peak_memory_mb": 100.0}

    records = {
        student(sweep, "a", 0): made(0.4, 0.25),
        student(sweep, "a", 1): made(0.5, None),
        student(sweep, "b", 1): made(0.6, 0.5),
    }
    rows = rows_of(sweep, records)
    head, lines = tables.summary(sweep, rows)
    assert head[4] == "over a"
    assert lines == [
        ["teacher:tiny", "0", *["-"] * 7],
        ["a", "2", "0.4500", "0.4000 to 0.5000", "-", "0.5000", "2.500", "20.0%", "100 MB"],
        ["b", "1", "0.6000", "-", "+15.00", "0.5000", "2.500", "20.0%", "100 MB"],
    ]
    assert tables.by_class(rows) == (["", "sky"], [["a", "0.250"], ["b", "0.500"]])
    assert "3 side by side" in tables.explained(sweep, [])


def test_students_of_depth_are_told_by_its_scores(place: Path) -> None:
    sweep = sweep_with("seeds = [0, 1]\nvariants = { a = {}, b = {} }")

    def made(rel: float, delta: float) -> dict[str, Any]:
        depth = {"size": "own 4x4", "frames": 3, "pixels": 9, "rel": rel, "delta1": delta}
        return {"test": {"depth": depth}, "train": None}

    rows = rows_of(
        sweep,
        {
            student(sweep, "a", 0): made(0.2, 0.7),
            student(sweep, "a", 1): made(0.3, 0.6),
            student(sweep, "b", 0): made(0.15, 0.8),
        },
    )
    head, lines = tables.summary(sweep, rows)
    assert head[2:6] == ["test depth/rel", "min to max", "over a", "depth/delta1"]
    assert lines[1][:6] == ["a", "2", "0.2500", "0.2000 to 0.3000", "-", "0.6500"]
    assert lines[2][:6] == ["b", "1", "0.1500", "-", "-10.00", "0.8000"]
    assert "gains in points of depth/rel" in tables.explained(sweep, rows)
    best = best_row(rows)
    assert best is not None
    assert best.name == "b"  # of the higher delta1, not of the higher rel
    assert rows[1].to_dict()["depth/rel"]["mean"] == pytest.approx(0.25)
    assert "IoU by class" not in tables.markdown(sweep, rows)


def test_consistency_is_told_over_the_classes_that_all_students_predict_as_well(
    place: Path,
) -> None:
    sweep = sweep_with("seeds = [0, 1]\nvariants = { a = {}, b = {} }")

    def made(*iou: float | None) -> dict[str, Any]:
        known = [one for one in iou if one is not None]
        whole = {"miou": sum(known) / len(known), "iou": list(iou), "pixels": 0.9}
        video = {"consistency": {"whole": whole, "visible": None}, "stability": 0.1}
        test = {"miou": 0.5, "pixel_accuracy": 0.5, "classes": [], "video": video}
        return {"test": test, "train": None}

    rows = rows_of(
        sweep,
        {
            student(sweep, "a", 0): made(0.9, 0.7, 0.0),  # the third on a pixel or two
            student(sweep, "a", 1): made(0.8, 0.6, None),
            student(sweep, "b", 0): made(0.95, 0.85, 0.0),
        },
    )
    a, b = (row for row in rows if row.name in "ab")
    assert [one.tc_shared for one in a.students] == pytest.approx([0.8, 0.7])
    assert [one.tc for one in a.students] == pytest.approx([1.6 / 3, 0.7])
    assert b.students[0].tc_shared == pytest.approx(0.9)
    without = rows_of(sweep, {student(sweep, "a", 0): {**made(0.5), "test": {
        "miou": 0.5, "pixel_accuracy": 0.5, "classes": []}}})  # fmt: skip
    assert [one.tc_shared for row in without for one in row.students] == [None]


def test_variants_have_folders_that_a_shell_can_name() -> None:
    assert slug("1/8 labels: CE + L_p") == "1-8-labels-ce-l-p"
    assert slug("Ä & ß") == "ä-ß"


def test_its_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from stillroom.cli import main\n"
        "main(['sweep', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'zarr', 'numpy', 'pydantic', 'rich', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Train every variant" in done.stdout
