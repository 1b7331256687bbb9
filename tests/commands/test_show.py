"""Results as people read them."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from stillroom.commands.quantities import gflops, parameters
from stillroom.commands.show.caches import build_report, estimate
from stillroom.commands.show.grid import fitted, grid
from stillroom.commands.show.students import term_checks
from stillroom.pipeline.build.estimate import BuildEstimate, SetEstimate
from stillroom.pipeline.build.plan import SetPlan
from stillroom.pipeline.build.report import BuildReport
from stillroom.stages.train.check import Check, TermCheck


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "?"), (836, "836"), (2836, "2.84 k"), (999_994, "999.99 k"), (999_995, "1.00 M"),
     (29_200_000, "29.20 M")],
)  # fmt: skip
def test_parameters_are_counted_in_what_shows_them(count: int, said: str) -> None:
    assert parameters(count) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "?"), (42_000, "4.2e-05"), (4_240_000, "0.0042"), (10_000_000, "0.01"),
     (7_654_000_000, "7.65")],
)  # fmt: skip
def test_few_operations_are_not_shown_as_none(count: int, said: str) -> None:
    assert gflops(count) == said


def test_a_file_that_is_bad_in_every_set_is_one_frame() -> None:
    bad = Counter({("street", "frames"): 1, ("street", "tiny"): 1, ("more", "frames"): 0})
    report = BuildReport([], shards=3, frames=22, bytes=1000, bad=bad, bad_frames=1)
    said = str(build_report(Path("a.cache"), report)[-1])
    assert said.endswith("; 2 bad rows (1 frame): stillroom cache info a.cache --bad")
    report = replace(report, bad=Counter({("street", "dis"): 1}), bad_frames=0)
    said = str(build_report(Path("a.cache"), report)[-1])
    assert said.endswith("; 1 bad row: stillroom cache info a.cache --bad")


def test_the_share_of_pixels_with_a_pseudo_label_is_a_line_of_a_build() -> None:
    pixels = Counter({("street", "tiny"): 2000, ("street", "frames"): 0, ("more", "tiny"): 1000})
    sure = Counter({("street", "tiny"): 868})
    report = BuildReport([], shards=3, photo_pixels=pixels, sure_pixels=sure)
    _, said = build_report(Path("a.cache"), report)
    assert said == "pixels with a pseudo label: street/tiny 43.4%, more/tiny 0.0%"


def test_in_a_narrow_terminal_headings_wrap_and_nothing_is_cut() -> None:
    table = grid(("class", "pixel accuracy", "waiting"), [("pedestrian", 0.1154, "1%")])
    console = Console(width=10, file=io.StringIO())
    console.print(table, soft_wrap=True)
    assert console.file.getvalue().split("\n") == [  # type: ignore[attr-defined]
        "               pixel         ",
        "class       accuracy  waiting",
        "pedestrian    0.1154       1%",
        "",
    ]


def test_a_set_that_is_built_is_done_in_a_plan() -> None:
    def planned(name: str, missing: tuple[int, ...], sizes: dict[str, int]) -> SetEstimate:
        return SetEstimate(SetPlan("street", name, 10, 4, missing, ("frames",)), sizes, 2.0)

    plan = BuildEstimate((planned("frames", (), {}), planned("tiny", (1,), {"logits": 9000})), None)
    table = estimate(plan)[0]
    cells = [list(column.cells) for column in table.columns]
    assert list(zip(*cells, strict=True)) == [
        ("street/frames", "done", "", "", ""),
        ("street/tiny", "4", "1", "9.0 kB", "2 s"),
    ]


def test_a_term_without_a_gradient_is_remarked_on_below_the_table() -> None:
    def measured(label: str, *gradients: float) -> TermCheck:
        return TermCheck("more", label, 1.0, [0.5] * 3, list(gradients), 0.1, 1000)

    found = Check(1.0, [measured("silent/tiny", 0.0, 0.0, 0.0), measured("late/tiny", 0.0, 0.1)])
    _, *remarks = map(str, term_checks(found))
    assert [line for line in remarks if "had no gradient" in line] == [
        "term silent/tiny on stream more had no gradient: nothing to learn from; "
        "`stillroom cache stats RUN.toml` counts pseudo labels"
    ]


def test_a_table_that_is_too_wide_is_cut_between_columns_and_loses_nothing() -> None:
    columns = ["array", "shape", "a number", "another", "last"]
    rows = [("street/logits", "9x8x12", "1234567.8", "2.5", "0.001"), ("more", "8", "1", "", "7")]
    table = grid(columns, rows)
    assert fitted(table, 80) == [table]
    pieces = fitted(table, 34)
    shown = []
    for piece in pieces:
        console = Console(width=34, file=io.StringIO())
        console.print(piece, soft_wrap=True)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= 34
        shown.append(text.split())
    assert len(pieces) == 2
    for words in shown:
        assert words[0] == "array"
        assert {"street/logits", "more"} <= set(words)
    every = [word for words in shown for word in words]
    for word in [*" ".join(columns).split(), *(cell for row in rows for cell in row if cell)]:
        assert word in every
    assert [column.header for column in fitted(table, 1)[0].columns] == ["array", "shape"]
