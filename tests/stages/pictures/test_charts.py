"""Charts: the values that they draw, and that they stay readable with many classes and runs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from stillroom.stages.evaluate.confusion import Scores
from stillroom.stages.pictures.chart import key_height, series_colours
from stillroom.stages.pictures.curve_chart import Panel, _running_mean, curve_chart
from stillroom.stages.pictures.iou_chart import iou_chart
from stillroom.stages.pictures.page import fitted, text_width, wrapped
from stillroom.storage_specs.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

BLUE = (0, 0x72, 0xB2)


def scores(*iou: float | None) -> Scores:
    known = [value for value in iou if value is not None]
    names = tuple(f"class {index}" for index in range(len(iou)))
    mean = sum(known) / len(known)
    return Scores(names, mean, mean, mean, iou, iou, tuple(int(v is not None) for v in iou))


def longest_run(path: Path, colour: tuple[int, int, int]) -> list[int]:
    """Lengths of the bars of a colour from top to bottom, in pixels."""
    rows = (np.asarray(Image.open(path)) == colour).all(2).sum(1)
    starts = np.flatnonzero((rows[1:] > 20) & (rows[:-1] <= 20))
    return [int(rows[start + 3]) for start in starts]


def test_bars_are_as_long_as_their_iou(tmp_path: Path, words: list[str]) -> None:
    path = iou_chart(tmp_path / "iou.png", {"student": scores(1.0, 0.25, None, 0.55)}, title="t")
    mean, whole, quarter, half = longest_run(path, BLUE)
    assert whole > 400
    assert [mean, quarter, half] == pytest.approx([0.6 * whole, 0.25 * whole, 0.55 * whole], abs=2)
    assert {"mIoU", "0.600", "1.000", "0.250", "0.550", "absent"} <= set(words)


def test_a_run_can_be_given_the_colour_that_it_has_elsewhere(tmp_path: Path) -> None:
    runs = {"a": scores(1.0), "b": scores(0.5)}
    colours = {"b": "#0072b2", "not here": "#d55e00", "a": "#009e73"}
    path = iou_chart(tmp_path / "iou.png", runs, colours=colours)
    assert len(longest_run(path, BLUE)) == 2  # bars of b: its mean, and its one class
    assert longest_run(path, BLUE)[1] == pytest.approx(
        longest_run(path, (0, 158, 115))[1] / 2, abs=2
    )


@pytest.mark.parametrize(
    ("classes", "runs"), [(1, 1), (11, 4), (40, 2), (150, 3), (255, 1), (3, 12)]
)
def test_many_classes_and_runs_stay_readable(
    classes: int, runs: int, tmp_path: Path, words: list[str]
) -> None:
    values = np.linspace(0, 1, classes).tolist()
    found = {f"run number {index}": scores(*values) for index in range(runs)}
    iou_chart(tmp_path / "iou.png", found)
    assert len([name for name in words if name.startswith("class")]) == classes
    assert len([name for name in words if name.startswith("run number")]) == runs


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "iou.png"
    with pytest.raises(ConfigError, match="at least one run"):
        iou_chart(path, {})
    with pytest.raises(ConfigError, match="a was scored on other classes than b"):
        iou_chart(path, {"a": scores(0.5), "b": scores(0.5, 0.5)})


def test_curves_of_any_kind_stay_readable(tmp_path: Path, words: list[str]) -> None:
    steps = list(range(0, 5000, 10))
    losses = {"cross_entropy": (steps, [2 * 0.999**step for step in steps])}
    panels = [
        Panel("loss", losses, logarithmic=True),
        Panel("mIoU", {"student": ([0, 250], [0.1, 0.4])}),
        Panel("nothing yet", {"student": ([], [])}),
        Panel("gaps", {"a": ([0, 1, 2, 3], [1.0, float("nan"), 0.0, 1e-9])}, logarithmic=True),
        Panel("many", {f"run number {index}": ([0, 1], [0, index]) for index in range(14)}),
        Panel("flat", {"lr": ([5], [0.01])}),
    ]
    curve_chart(tmp_path / "curves.png", panels, title="runs/student")
    assert {"mIoU", "many", "flat", "step", "cross_entropy"} <= set(words)
    assert {"loss (logarithmic axis)", "gaps (logarithmic axis)"} <= set(words)
    assert "nothing yet" not in words


def test_a_logarithmic_panel_without_a_positive_value_is_drawn(tmp_path: Path) -> None:
    panel = Panel("loss", {"a": ([0, 1], [0.0, 0.0])}, logarithmic=True)
    drawn = curve_chart(tmp_path / "c.png", [panel])
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_curves_without_a_point_or_with_values_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing has been recorded"):
        curve_chart(tmp_path / "c.png", [Panel("loss", {"a": ([], [])})])
    with pytest.raises(ArtifactError, match="loss: a: 2 steps, 1 values"):
        curve_chart(tmp_path / "c.png", [Panel("loss", {"a": ([0, 1], [0.5])})])


def test_the_running_mean_is_a_mean_of_the_neighbours_that_are_known() -> None:
    values = np.arange(300, dtype=np.float64)
    values[100] = np.nan
    mean = _running_mean(values)  # of 3 before, 3 after and the point itself
    assert mean[50] == pytest.approx(50)
    assert mean[0] == pytest.approx(np.mean([0, 1, 2, 3]))
    assert mean[101] == pytest.approx(np.mean([98, 99, 101, 102, 103, 104]))
    assert np.isnan(mean[100])


def test_text_is_shortened_in_its_middle_until_it_fits() -> None:
    name = "runs/a-very-long-name-of-a-run/best.pt"
    assert fitted(name, 1000) == name
    short = fitted(name, 120)
    assert text_width(short) <= 120
    assert short.startswith("runs/")
    assert short.endswith("best.pt")
    assert fitted(name, 1) == "…"


def test_long_words_are_wrapped_within_their_room() -> None:
    lines = wrapped("some words of a subtitle and " + "x" * 300, 120)
    assert len(lines) > 2
    assert all(text_width(line, 12) <= 120 for line in lines)
    assert lines[-1].count("…") == 1
    assert wrapped("", 120) == []


def test_a_key_takes_as_many_lines_as_its_room_asks_for() -> None:
    names = [f"run number {index}" for index in range(9)]
    assert key_height(names, 2000) == key_height(names[:1], 100)
    assert key_height(names, 300) >= 4 * key_height(names[:1], 300)
    assert key_height([], 300) == 0


def test_every_series_has_its_own_colour() -> None:
    names = [f"run {index}" for index in range(40)]
    colours = series_colours(names)
    assert list(colours) == names
    assert len(set(colours.values())) == 40


def test_importing_the_room_loads_no_matplotlib() -> None:
    code = (
        "import sys\n"
        "import stillroom.stages.pictures.sheet, stillroom.stages.pictures.iou_chart\n"
        "import stillroom.stages.pictures.curve_chart, stillroom.stages.pictures.prediction_sheet\n"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
