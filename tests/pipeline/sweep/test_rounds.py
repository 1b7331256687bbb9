"""A controller's rounds: what is drawn when, what it is rewarded by, and what a second call does.

No student is trained here: `trained` stands in for the processes, and leaves what they would, with
scores that are a function of what was drawn.
"""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.commands.show import sweeps
from stillroom.pipeline.run_file.sections import as_document
from stillroom.pipeline.sweep import run as sweep_run
from stillroom.pipeline.sweep.file import load_sweep
from stillroom.pipeline.sweep.rounds import geometric_mean, reward
from stillroom.pipeline.sweep.run import Hooks, plan_sweep, run_sweep
from stillroom.pipeline.sweep.state import State
from stillroom.stages.train.run_folder import write_json
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillroom.pipeline.sweep.file import Sweep, Trial
    from stillroom.pipeline.sweep.results import SweepResult
    from stillroom.pipeline.sweep.trials import TrialJob

VALIDATED = 'set = { "train.validation" = { source = "street", every = 2 } }\n'
CONTROLLER = f"controller = {{ round = 4 }}\n{VALIDATED}"
LISTS = """
[search]
"terms.1.weight" = [1.0, 2.0, 3.0, 4.0, "drawn"]
"train.optimiser.lr" = [0.1, 0.2, 0.3, "drawn"]
"""
TEST = {"miou": 0.5, "pixel_accuracy": 0.5, "classes": [{"name": "sky", "iou": 0.5}]}
TWELVE = f"samples = 12\n{CONTROLLER}{LISTS}"


@pytest.fixture
def sweep_of(run_file: Path) -> Callable[[str], Sweep]:
    def load(text: str) -> Sweep:
        file = run_file.with_name("sweep.toml")
        file.write_text(f'run = "run.toml"\npath = "swept"\n{text}')
        return load_sweep(file)

    return load


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the students that were trained, in this order."""
    names: list[str] = []

    def run(jobs: Sequence[TrialJob], *_: Any) -> dict[Trial, str]:
        for job in jobs:
            scored = job.task["keep"]["scored"]
            if job.trial.seed is None:
                write_json(job.trial.record, {"scored": scored, "test": TEST})
            else:
                names.append(job.trial.row)
                leave_results(job.trial, scored, score_of(job.trial))
        return {}

    monkeypatch.setattr(sweep_run, "run_trials", run)
    monkeypatch.setattr(sweep_run, "_write", lambda *_: ())  # tables and charts, tested elsewhere
    return names


def failing(monkeypatch: pytest.MonkeyPatch, is_broken: Callable[[Trial], bool]) -> None:
    """Let some of the students fail that `trained` would have trained."""
    inner = sweep_run.run_trials

    def run(jobs: Sequence[TrialJob], *rest: Any) -> dict[Trial, str]:
        broken = [one.trial for one in jobs if one.trial.seed is not None and is_broken(one.trial)]
        inner([one for one in jobs if one.trial not in broken], *rest)
        return dict.fromkeys(broken, "it broke")

    monkeypatch.setattr(sweep_run, "run_trials", run)


def score_of(trial: Trial) -> float:
    assert trial.run.train is not None
    return 0.1 * trial.run.terms[1].weight + trial.run.train.optimiser.lr


def leave_results(trial: Trial, scored: Any, score: float) -> None:
    write_json(trial.place / "config.json", as_document(trial.run))
    (trial.place / "last.pt").touch()
    lines = [{"step": 4, "scores": {"miou": score}}, {"step": 6, "scores": {"miou": 0.0}}]
    (trial.place / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    train = {"steps": 6, "seconds": 1.0, "wait_seconds": 0.0, "best_score": score, "best_step": 4}
    write_json(trial.record, {"scored": scored, "train": train, "test": TEST})


def search(sweep: Sweep) -> SweepResult:
    return run_sweep(plan_sweep(sweep), hooks=Hooks(build_cache=lambda _: None))


def names_of(sweep: Sweep) -> list[str]:
    return [trial.row for trial in sweep.students]


def test_rounds_follow_each_other_in_one_call_and_a_second_has_nothing_to_do(
    sweep_of: Callable[[str], Sweep], trained: list[str]
) -> None:
    sweep = sweep_of(TWELVE)
    assert 1 < len(sweep.students) <= 4
    found = search(sweep)
    assert [len(names) for names in found.sweep.rounds] == [4, 4, 4]
    drawn = [name for names in found.sweep.rounds for name in names]
    assert trained == list(dict.fromkeys(drawn)) == names_of(found.sweep)  # each of them once
    assert [len(row.students) for row in found.rows if row.overrides] == len(trained) * [1]
    known = list(trained)
    again = plan_sweep(sweep_of(TWELVE))
    assert [one for one in again.pending if one.seed is not None] == []
    assert again.sweep.rounds == found.sweep.rounds
    assert trained == known


def test_a_search_that_was_interrupted_draws_what_it_would_have(
    sweep_of: Callable[[str], Sweep], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = sweep_run.run_trials

    def interrupted(jobs: Sequence[TrialJob], *rest: Any) -> dict[Trial, str]:
        inner(jobs[:1] if trained else jobs, *rest)
        if len(trained) > first:
            raise KeyboardInterrupt
        return {}

    sweep = sweep_of(TWELVE)
    first = len(sweep.students)
    with monkeypatch.context() as patch:
        patch.setattr(sweep_run, "run_trials", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(sweep)
    assert len(trained) == first + 1  # one of the second round
    rounds = search(load_sweep(sweep.file)).sweep.rounds
    assert len(trained) == len(set(trained)) > first + 1
    sweep.file.write_text(sweep.file.read_text().replace('"swept"', '"whole"'))
    assert search(load_sweep(sweep.file)).sweep.rounds == rounds


def test_what_is_drawn_depends_on_the_scores_and_more_samples_only_add_some(
    sweep_of: Callable[[str], Sweep], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = score_of
    few = search(sweep_of(TWELVE.replace("12", "10"))).sweep.rounds
    many = search(sweep_of(TWELVE.replace("12", "40"))).sweep.rounds
    assert [len(names) for names in few] == [4, 4, 2]
    assert few == (*many[:2], many[2][:2])
    monkeypatch.setattr(sys.modules[__name__], "score_of", lambda trial: 1 - known(trial))
    other = sweep_of(TWELVE.replace("12", "40"))
    other.file.write_text(other.file.read_text().replace("swept", "other"))
    others = search(load_sweep(other.file)).sweep.rounds
    assert others[0] == many[0]
    best, worst = "terms.1.weight=4.0", "terms.1.weight=1.0"
    late = [name for names in many[5:] for name in names]
    lately = [name for names in others[5:] for name in names]
    assert sum(best in name for name in late) > sum(best in name for name in lately)
    assert sum(worst in name for name in late) < sum(worst in name for name in lately)


def test_a_student_that_failed_has_the_reward_0_and_is_given_up_with_its_round(
    sweep_of: Callable[[str], Sweep], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = names_of(sweep_of(TWELVE))[0]
    failing(monkeypatch, lambda trial: trial.row == bad)
    found = search(sweep_of(TWELVE))
    assert [trial.row for trial in found.failed] == [bad]
    assert len(found.sweep.rounds) == 3
    again = plan_sweep(sweep_of(TWELVE))
    states = {trial.row: state for trial, state in again.states.items()}
    first = next(trial for trial in again.sweep.students if trial.row == bad)
    assert states[bad].kind == "failed"
    assert reward(first, states[bad]) == 0.0
    assert again.sweep.rounds == found.sweep.rounds
    assert "failed" in str([row["state"] for row in again.to_dict()["runs"]])
    (first.place / "failed.json").unlink()
    assert first.row in [one.row for one in plan_sweep(sweep_of(TWELVE)).pending]
    changed = TWELVE.replace("every = 2", "every = 3")  # the mark is of another config
    assert "failed" not in {one.kind for one in plan_sweep(sweep_of(changed)).states.values()}


def test_a_round_of_which_all_failed_ends_the_search_and_is_tried_again(
    sweep_of: Callable[[str], Sweep], trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, lambda _: True)
        found = search(sweep_of(TWELVE))
    assert len(found.failed) == len(found.sweep.students)
    assert len(found.sweep.rounds) == 1
    assert not list(found.sweep.config.path.glob("*/failed.json"))
    assert len(search(sweep_of(TWELVE)).sweep.rounds) == 3


def test_a_round_that_is_run_in_part_is_followed_by_none(
    sweep_of: Callable[[str], Sweep], trained: list[str]
) -> None:
    plan = plan_sweep(sweep_of(TWELVE))
    part = plan_sweep(plan.sweep, [plan.sweep.students[0].row])
    found = run_sweep(part, hooks=Hooks(build_cache=lambda _: None))
    assert trained == [plan.sweep.students[0].row]
    assert len(found.sweep.rounds) == 1


def test_a_dry_run_says_how_many_draws_are_to_come(sweep_of: Callable[[str], Sweep]) -> None:
    said = sweeps.plan(plan_sweep(sweep_of(TWELVE)))
    assert "8 of 12 draws are made later, by what these score" in said


def test_a_reward_is_the_geometric_mean_of_the_tasks_scores_at_the_best_step(
    sweep_of: Callable[[str], Sweep],
) -> None:
    trial = sweep_of(TWELVE).students[0]
    leave_results(trial, {}, 0.5)
    scores = [{"miou": 0.4, "depth/delta1": 0.9, "depth/rel": 7.0}, {"miou": 0.64}]
    lines = [{"step": step, "scores": one} for step, one in zip((2, 4), scores, strict=True)]
    text = "".join(f"{json.dumps(one)}\n" for one in [{"step": 4, "terms": {}}, *lines])
    (trial.place / "metrics.jsonl").write_text(text)

    def at(step: int | None) -> float | None:
        return reward(trial, State("done", {}, result={"train": {"best_step": step}}))

    assert at(2) == pytest.approx(0.6)
    assert at(4) == 0.64
    assert at(None) == 0.0  # no score was finite
    assert reward(trial, State("stopped", {}, stopped={"step": 2})) == pytest.approx(0.6)
    assert reward(trial, State("begun", {})) is None
    assert geometric_mean([0.5, math.nan]) == geometric_mean([0.5, None]) == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'samples = 12\n{CONTROLLER}search = {{ "terms.1.weight" = [0.5, 5.0, "log"] }}',
         "search.terms.1.weight: a controller chooses from lists that end with 'drawn'"),
        (f'samples = 12\n{CONTROLLER}[search]\n"terms.1.weight" = [1, 2]\n'
         '"train.optimiser.lr" = [0.1, 0.2, "drawn"]',
         "search.terms.1.weight: a controller chooses from lists that end with 'drawn'"),
        (TWELVE.replace("12", "4"), "samples = 4: a controller learns after each 4 draws"),
        (f"{TWELVE}\n[variants]\na = {{}}", "controller: searches for one run: leave out"),
        (f"{CONTROLLER}variants = {{ a = {{}} }}", "controller: searches for one run: leave out"),
        (TWELVE.replace("round = 4", "round = 1"), "controller.round: Input should be greater"),
        (TWELVE.replace("round", "rounds"), "controller.rounds: unknown key; did you mean 'round'"),
        (TWELVE.replace(VALIDATED, ""), "controller: learns from validations: give the run [tr"),
        (TWELVE.replace("0.3,", "0.3, 0.4, 0.5, 0.6, 0.7, 0.8, -0.9,"), "greater than 0; got -0.9"),
    ],
)  # fmt: skip
def test_what_a_controller_cannot_search_is_refused(
    sweep_of: Callable[[str], Sweep], text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_of(text)
    assert said in str(caught.value)


def test_seeds_beside_those_of_the_file_are_refused(sweep_of: Callable[[str], Sweep]) -> None:
    sweep = sweep_of(f"seeds = [0, 1]\n{TWELVE}")
    assert {trial.seed for trial in load_sweep(sweep.file, seeds=[1]).students} == {0, 1}
    with pytest.raises(ConfigError, match="--seeds 2: a controller learns from the means over"):
        load_sweep(sweep.file, seeds=[1, 2])
