"""Search: what is drawn, how it is named, and what cannot be searched."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import pytest

from stillroom.commands.show import sweeps
from stillroom.pipeline.sweep import tables
from stillroom.pipeline.sweep.file import load_sweep
from stillroom.pipeline.sweep.results import SweepResult
from stillroom.pipeline.sweep.rows import rows_of
from stillroom.pipeline.sweep.run import plan_sweep
from stillroom.pipeline.sweep.search import Range, dimension, point_name, points
from stillroom.pipeline.sweep.sweep_settings import slug
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LR = "train.optimiser.lr"


@pytest.fixture
def written(run_file: Path) -> Path:
    """A sweep file without its keys."""
    return run_file.with_name("sweep.toml")


def sweep_of(written: Path, text: str) -> Any:
    written.write_text(f'run = "run.toml"\npath = "swept"\n{text}')
    return load_sweep(written)


def test_choices_are_crossed_and_ranges_drawn_for_each_combination() -> None:
    space = {
        "a": dimension([1, 2]), "b": dimension(["x", "y"]), "c": dimension([0.0, 1.0, "uniform"]),
    }  # fmt: skip
    found = points(space, samples=3, seed=0)
    assert [(one["a"], one["b"]) for one in found] == 3 * [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert len({one["c"] for one in found}) == 12


def test_of_a_list_that_is_drawn_from_each_trial_takes_one() -> None:
    space = {"a": dimension([1, 2]), "b": dimension(["x", ["y"], "z", "drawn"])}
    found = points(space, samples=20, seed=0)
    assert [one["a"] for one in found] == 20 * [1, 2]
    assert [one["b"] in ("x", ["y"], "z") for one in found] == 40 * [True]
    assert {str(one["b"]) for one in found} == {"x", "['y']", "z"}
    assert point_name({"a": 1, "b": ["y"]}, space) == "a=1, b=#1"
    with pytest.raises(ConfigError, match="got neither"):
        dimension(["drawn"])


def test_the_cells_of_a_module_are_searched_by_plain_keys(written: Path) -> None:
    """Fig. 6.2 of Liu's thesis: what is drawn twice is one student."""
    cells = (
        '[{inputs=["penultimate","penultimate"],adaptors=["skip","skip"],aggregator="sum"},'
        '{inputs=["cell1","penultimate"],adaptors=["skip","skip"],aggregator="sum"}]'
    )
    sweep = sweep_of(
        written,
        f"""samples = 6
        [set]
        terms = [{{name="overparameterisation", layers=["penultimate"], cells={cells}}}]
        [search]
        "terms.0.cells.1.inputs.1" = ["penultimate", "cell1", "drawn"]
        "terms.0.cells.1.adaptors.0" = ["conv1x1", "deformable3x3", "skip", "drawn"]
        "terms.0.cells.0.aggregator" = ["sum", "concatenation", "drawn"]
        """,
    )
    terms = [trial.run.terms[0] for trial in sweep.students]
    assert 3 < len(terms) == len({term.model_dump_json() for term in terms})
    assert {cell for term in terms for cell in term.plan[1].inputs} == {"cell1", "penultimate"}


def test_draws_are_a_function_of_the_seed_and_more_samples_only_add_some() -> None:
    space = {"a": dimension([1, 2]), "c": dimension([0.0, 1.0, "uniform"])}
    few, many = points(space, 2, seed=5), points(space, 7, seed=5)
    assert few == points(space, 2, seed=5)
    assert many[:4] == few
    assert points(space, 2, seed=6) != few
    assert few[2]["c"] == float(f"{random.Random('5 2 c').random():.4g}")


def test_a_key_more_leaves_the_draws_of_the_others() -> None:
    one = points({"a": dimension([0.0, 1.0, "uniform"])}, 4, seed=0)
    two = points({"b": dimension([1, 9, "int"]), "a": dimension([0.0, 1.0, "uniform"])}, 4, seed=0)
    assert [point["a"] for point in one] == [point["a"] for point in two]


@pytest.mark.parametrize(
    ("one", "ends", "middle"),
    [
        (Range(0.5, 5.0, "uniform"), (0.5, 5.0), 2.75),
        (Range(1e-4, 1e-2, "log"), (1e-4, 1e-2), 1e-3),
        (Range(2, 5, "int"), (2, 5), 4),
    ],
)
def test_ranges_are_even_on_their_scale_and_hold_their_ends(
    one: Range, ends: tuple[float, float], middle: float
) -> None:
    assert one.at(0.0) == ends[0]
    assert one.at(0.5) == pytest.approx(middle)
    assert one.at(math.nextafter(1.0, 0.0)) == ends[1]


def test_a_draw_is_rounded_but_not_out_of_its_range() -> None:
    assert Range(0.12344, 9.0, "uniform").at(0.0) == 0.12344
    assert Range(0.1, 9.0, "uniform").at(1 / 3) == 3.067


def test_a_range_of_whole_numbers_draws_each_as_often() -> None:
    found = [point["n"] for point in points({"n": dimension([0, 3, "int"])}, 400, seed=1)]
    assert all(isinstance(one, int) for one in found)
    assert all(70 < found.count(one) < 130 for one in range(4))


def test_names_say_values_and_tables_by_their_position() -> None:
    space = {"terms": dimension([[{"name": "cross_entropy"}], []]), LR: dimension([1e-5, 0.5])}
    assert [point_name(one, space) for one in points(space, 1, 0)] == [
        f"terms=#0, {LR}=1e-05", f"terms=#0, {LR}=0.5",
        f"terms=#1, {LR}=1e-05", f"terms=#1, {LR}=0.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("[]", "search: terms.1.weight: expected choices, or a range as in [0.5, 5.0, 'log']"),
        ("[1.0, 1.0]", "[1.0, 1.0] names a choice twice"),
        ('[5.0, 0.5, "log"]', "[5.0, 0.5, 'log'] is empty"),
        ('[2, 2, "int"]', "[2, 2, 'int'] is empty"),
        ('[0, 5.0, "log"]', "[0, 5.0, 'log']: a logarithmic range begins above 0"),
        ('[0.5, 5, "int"]', "a range of whole numbers is between two of them"),
        ('["a", 5.0, "uniform"]', "a range is between two finite numbers"),
        ('[0.0, inf, "uniform"]', "a range is between two finite numbers"),
        ("0.5", "search.terms.1.weight: "),
    ],
)
def test_what_cannot_be_searched_is_refused(written: Path, search: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_of(written, f'search = {{ "terms.1.weight" = {search} }}')
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('search = { "terms.1.wait" = [1, 2] }',
         "search.'terms.1.wait=1'.terms.1.wait: unknown key; did you mean 'weight'?"),
        ('search = { "train.optimiser.lr" = [-1.0, -2.0] }', "greater than 0; got -1.0"),
        ('search = { "cache.path" = ["a", "b"] }', "search.cache.path: all variants share this"),
        ('search = { "train.seed" = [1, 2] }', "search.train.seed: `seeds` of the sweep says it"),
        ('search = { "terms.1.weight" = [1, 2] }\nvariants = { a = { "terms.1.weight" = 3 } }',
         "variants.'a'.terms.1.weight: `search` says it"),
        ('search = { "terms.1.weight" = [1, 2] }\nsamples = 2', "samples = 2, and `search` has no"),
        ("samples = 2\nvariants = { a = {} }", "samples = 2, and `search` has nothing to draw"),
        ('search = { "terms.1.weight" = [1, 2] }\nbaseline = "terms.1.weight=3"',
         "baseline: no variant 'terms.1.weight=3'; did you mean 'terms.1.weight="),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_trained_is_refused(written: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_of(written, text)
    assert said in str(caught.value)


def test_the_same_fault_of_every_point_is_told_once(written: Path) -> None:
    with pytest.raises(ConfigError, match="1 fault\n"):
        sweep_of(written, 'search = { "terms.1.wait" = [1, 2, 3] }')


def test_every_variant_is_trained_at_every_point_with_the_values_in_its_run(written: Path) -> None:
    sweep = sweep_of(
        written,
        "samples = 2\nseeds = [0, 1]\n"
        f'search = {{ "terms.1.weight" = [0.5, 5.0, "log"], "{LR}" = [0.1, 0.2] }}\n'
        'variants = { plain = {}, fast = { "train.steps" = 3 } }',
    )
    assert len(sweep.students) == 2 * 2 * 2 * 2
    for trial in sweep.students:
        changes = sweep.variants[trial.row]
        assert trial.run.terms[1].weight == changes["terms.1.weight"]
        assert trial.run.train.optimiser.lr == changes[LR]
        assert trial.run.train.steps == (3 if trial.row.startswith("fast") else 6)
        assert str(changes["terms.1.weight"]) in trial.row
        assert trial.record.parent.name.endswith(f"-seed{trial.seed}")
    assert len({trial.record for trial in sweep.students}) == len(sweep.students)
    again = load_sweep(written)
    assert [trial.record for trial in again.students] == [one.record for one in sweep.students]


def test_long_names_have_folders_that_a_disk_can_hold() -> None:
    name = ", ".join(f"train.view.a_rather_long_name_of_a_key_{i}=0.5" for i in range(9))
    assert slug("a" * 230) == "a" * 230
    assert slug(name).startswith("train-view-a-rather")
    assert len(slug(name)) < 80
    assert slug(name) != slug(f"{name}1")


def made(miou: float, validation: float | None) -> dict[str, Any]:
    test = {"miou": miou, "pixel_accuracy": 0.5, "classes": [{"name": "sky", "iou": 0.5}]}
    train = {"seconds": 10.0, "steps": 4, "wait_seconds": 2.0, "best_score": validation}
    return {"test": test, "train": train, "peak_memory_mb": 100.0}


def test_the_best_point_is_chosen_by_validation_where_there_is_one(written: Path) -> None:
    sweep = sweep_of(written, 'search = { "terms.1.weight" = [1, 2, 3] }')
    low, high, undone = sweep.students
    rows = rows_of(sweep, {low: made(0.5, 0.4), high: made(0.4, 0.6)})
    assert tables.best(sweep, rows) == [
        "best by validation: 0.6000; test mIoU 0.4000, n = 1: terms.1.weight=2"
    ]
    rows = rows_of(sweep, {low: made(0.5, None), high: made(0.4, None)})
    assert tables.best(sweep, rows) == ["best by test mIoU 0.5000, n = 1: terms.1.weight=1"]
    assert SweepResult(sweep, rows, {}).to_dict()["best"] == "terms.1.weight=1"
    assert tables.best(sweep, rows_of(sweep, {})) == []
    assert undone.row == "terms.1.weight=3"


def test_a_search_has_no_baseline_unless_one_is_named(written: Path) -> None:
    text = 'search = { "terms.1.weight" = [1, 2] }\n'
    sweep = sweep_of(written, text)
    assert sweep.baseline is None
    head, lines = tables.summary(sweep, rows_of(sweep, {}))
    assert not any(name.startswith("over") for name in head)
    assert all(len(line) == len(head) for line in lines)
    named = sweep_of(written, f'{text}baseline = "terms.1.weight=2"')
    rows = rows_of(
        named, {one: made(0.1 * one.run.terms[1].weight, None) for one in named.students}
    )
    assert [row.gain for row in rows[1:]] == pytest.approx([-0.1, 0.0])
    assert "over terms.1.weight=2" in tables.summary(named, rows)[0]


def test_a_dry_run_lists_every_point(written: Path) -> None:
    sweep = sweep_of(written, 'search = { "terms.1.weight" = [1, 2] }')
    states = plan_sweep(sweep).to_dict()["runs"]
    assert [one["name"] for one in states if one["seed"] == 0] == [
        "terms.1.weight=1", "terms.1.weight=2",
    ]  # fmt: skip
    assert sweeps.plan(plan_sweep(sweep))


def test_a_run_file_in_place_of_a_sweep_file_is_called_one(run_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.toml: this is a run file; give a sweep file"):
        load_sweep(run_file)
