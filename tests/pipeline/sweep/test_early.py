"""Early stopping: what the scheduler knows, what is refused, and what a table says of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.sweep import tables
from stillroom.pipeline.sweep.early import (
    SCORE,
    STEP,
    mark_stopped,
    scheduler,
    scores_of,
    validation_every,
)
from stillroom.pipeline.sweep.file import load_sweep
from stillroom.pipeline.sweep.rows import rows_of
from stillroom.pipeline.sweep.run import plan_sweep, run_sweep
from stillroom.pipeline.sweep.sweep_settings import AshaConfig
from stillroom.stages.train.run_folder import write_json
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from stillroom.pipeline.sweep.file import Sweep, Trial

VALIDATED = 'set = { "train.validation" = { source = "street", every = 2 } }\n'
VARIANTS = 'variants = { a = {}, b = { "train.validation.every" = 3 } }\n'


@pytest.fixture
def sweep(run_file: Path) -> Sweep:
    file = run_file.with_name("sweep.toml")
    file.write_text(f'run = "run.toml"\npath = "swept"\nasha = {{}}\n{VALIDATED}{VARIANTS}')
    return load_sweep(file)


def scored(trial: Trial, *scores: float) -> Trial:
    """Write the validations of a run, two steps apart, between other lines."""
    trial.place.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": 1, "terms": {"loss": 2.0}}]
    lines += [{"step": 2 * at, "scores": {"miou": one}} for at, one in enumerate(scores, 1)]
    (trial.place / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return trial


def decisions(asha: Any, *scores: float) -> list[str]:
    """What becomes of one more student, that scores so every two steps."""
    one = SimpleNamespace(trial_id="one more")
    asha.on_trial_add(None, one)
    return [
        asha.on_trial_result(None, one, {STEP: 2 * at, SCORE: score})
        for at, score in enumerate(scores, 1)
    ]


def test_the_scores_of_earlier_calls_count(sweep: Sweep) -> None:
    first = scored(sweep.students[0], 0.3, 0.5, 0.6)
    assert list(scores_of(first.place)) == [(2, 0.3), (4, 0.5), (6, 0.6)]
    settings = AshaConfig(grace=2, reduction_factor=2)
    assert decisions(scheduler(settings, 2, []), 0.1, 0.1) == ["CONTINUE", "CONTINUE"]
    assert decisions(scheduler(settings, 2, [first.place]), 0.1) == ["STOP"]
    assert decisions(scheduler(settings, 2, [first.place]), 0.4, 0.4) == ["CONTINUE", "STOP"]
    assert decisions(scheduler(settings, 2, [first.place]), 0.4, 0.5) == ["CONTINUE", "CONTINUE"]


def test_none_is_stopped_before_its_grace_is_over(sweep: Sweep) -> None:
    first = scored(sweep.students[0], 0.3, 0.5, 0.6)
    after = scheduler(AshaConfig(grace=6), 2, [first.place])
    assert decisions(after, 0.1, 0.1, 0.1) == ["CONTINUE", "CONTINUE", "STOP"]
    unset = scheduler(
        AshaConfig(), validation_every([each.run for each in sweep.students]), [first.place]
    )
    assert decisions(unset, 0.1) == ["STOP"]  # that of the variant that validates most often


def test_a_student_that_reports_the_same_validation_again_is_judged_once(sweep: Sweep) -> None:
    asha = scheduler(AshaConfig(grace=2), 2, [scored(sweep.students[0], 0.3).place])
    one = SimpleNamespace(trial_id="one more")
    asha.on_trial_add(None, one)
    told = [asha.on_trial_result(None, one, {STEP: 2, SCORE: 0.4}) for _ in range(3)]
    assert told == ["CONTINUE"] * 3


def test_a_run_that_does_not_validate_is_refused(run_file: Path) -> None:
    file = run_file.with_name("sweep.toml")
    file.write_text(f'run = "run.toml"\npath = "swept"\nasha = {{}}\n{VARIANTS}')
    with pytest.raises(ConfigError, match=r"variants\.'b'\.train\.validation\.source"):
        load_sweep(file)
    file.write_text('run = "run.toml"\npath = "swept"\nasha = {}\nvariants = { a = {} }')
    with pytest.raises(ConfigError, match=r"asha: .*give the run \[train\].validation"):
        load_sweep(file)


@pytest.mark.parametrize("asha", ["{ grace = 6 }", "{}"])
def test_a_first_rung_that_no_student_reaches_is_refused(run_file: Path, asha: str) -> None:
    file = run_file.with_name("sweep.toml")
    late = VALIDATED.replace("every = 2", "every = 6")
    text = f'run = "run.toml"\npath = "swept"\nasha = {asha}\n{late}variants = {{ a = {{}} }}'
    file.write_text(text)
    with pytest.raises(ConfigError, match="the first rung is at step 6, and no student takes more"):
        load_sweep(file)
    file.write_text(text.replace("{ a = {} }", '{ a = { "train.steps" = 7 } }'))
    assert len(load_sweep(file).students) == 1


@pytest.mark.parametrize(
    ("asha", "said"),
    [
        ("{ grace = 0 }", "asha.grace: Input should be greater than 0"),
        ("{ reduction_factor = 1 }", "asha.reduction_factor: Input should be greater than 1"),
        ("{ graze = 1 }", "asha.graze: unknown key; did you mean 'grace'?"),
        ('"asha"', "asha: "),
    ],
)
def test_what_asha_cannot_mean_is_refused(run_file: Path, asha: str, said: str) -> None:
    file = run_file.with_name("sweep.toml")
    file.write_text(f'run = "run.toml"\npath = "swept"\nasha = {asha}\n{VALIDATED}{VARIANTS}')
    with pytest.raises(ConfigError) as caught:
        load_sweep(file)
    assert said in str(caught.value)


def test_without_ray_it_is_refused_before_anything_begins(sweep: Sweep) -> None:
    with pytest.raises(ConfigError, match="asha: Ray Tune stops students early: give --address"):
        run_sweep(plan_sweep(sweep))
    assert not sweep.config.path.exists()
    assert not sweep.run.cache.path.exists()


def test_a_student_that_was_stopped_stays_so_and_is_in_no_mean(sweep: Sweep) -> None:
    from stillroom.pipeline.run_file.sections import as_document

    first, second = sweep.students
    write_json(first.place / "config.json", as_document(first.run))
    (first.place / "last.pt").touch()
    mark_stopped(first.place, 4, 0.125)
    plan = plan_sweep(sweep)
    assert [plan.states[each].kind for each in (first, second)] == ["stopped", "new"]
    assert first not in plan.pending
    assert second in plan.pending
    rows = rows_of(sweep, {}, {first: {"step": 4, "miou": 0.125}})
    head, lines = tables.summary(sweep, rows)
    assert [line[head.index("stopped early")] for line in lines] == [
        "-", "seed 0 at step 4: 0.1250", "-",
    ]  # fmt: skip
    assert rows[1].to_dict()["stopped"] == [{"seed": 0, "step": 4, "miou": 0.125}]
    assert rows[1].spread("miou") is None
    assert "those stopped early are in no mean" in tables.explained(sweep, [])
    sweep.file.write_text(sweep.file.read_text().replace("asha = {}\n", ""))
    without = load_sweep(sweep.file)
    assert plan_sweep(without).states[without.students[0]].kind == "begun"
