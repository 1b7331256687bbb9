"""Labels that show too little are said before training, and nothing to learn from is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from stillroom.pipeline.build.run import build
from stillroom.pipeline.label_check import _spread
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import prepare_job, train_run
from stillroom.storage_specs.errors import ConfigError
from tests.conftest import as_toml

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def masks(run_file: Path, run_document: dict[str, Any]) -> Callable[[tuple[int, ...]], Path]:
    """Writes six frames whose masks hold these ids, and the run file of a cache of them."""

    def write(ids: tuple[int, ...]) -> Path:
        for kind in ("images", "masks"):
            Path("town", kind).mkdir(parents=True, exist_ok=True)
        for i in range(6):
            rng = np.random.default_rng(i)
            Image.fromarray(rng.integers(0, 255, (32, 48, 3), np.uint8)).save(
                f"town/images/{i}.png"
            )
            mask = np.repeat(np.array([ids], np.uint8), 32, axis=0)
            Image.fromarray(np.resize(mask, (32, 48))).save(f"town/masks/{i}.png")
        document = run_document
        document["sources"] = {
            "town": {"kind": "image_mask", "root": "town", "classes": ["ground", "object"]}
        }
        document["teachers"]["tiny"]["options"] = {"classes": 2}
        document["terms"] = [{"name": "cross_entropy"}]
        document["train"]["streams"] = {"town": {"batch": 2}}
        document["evaluate"] = {"source": "town"}
        run_file.write_text(as_toml(document))
        build(load_run(run_file))
        return run_file

    return write


def test_masks_whose_object_has_the_ignored_id_are_said_to_lack_it(
    masks: Callable[[tuple[int, ...]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    prepare_job(load_run(masks((0, 255))))
    assert "stream town: no pixel of its 6 frames has the class object; the student" in caplog.text


def test_labels_that_show_every_class_are_not_spoken_of(
    masks: Callable[[tuple[int, ...]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        prepare_job(load_run(masks((0, 1))))
    assert "no pixel" not in caplog.text


def test_a_run_without_a_labelled_pixel_is_refused_where_no_teacher_helps(
    masks: Callable[[tuple[int, ...]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = masks((255,))
    with pytest.raises(ConfigError, match=r"no pixel of town has a label .*nothing to learn"):
        train_run(load_run(path))
    assert not Path("run").exists()
    taught = 'terms=[{name="cross_entropy"}, {name="probability_l2", teacher="tiny"}]'
    caplog.clear()
    prepare_job(load_run(path, [taught]))
    assert "stream town: no pixel of its 6 frames has a label" in caplog.text


def test_first_frames_looked_at_lie_all_over_the_stream() -> None:
    order = _spread(np.arange(1000))
    assert sorted(order) == list(range(1000))
    assert order[200] > 500
    assert list(_spread(np.arange(3))) == [0, 1, 2]
