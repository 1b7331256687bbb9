from __future__ import annotations

import json
import math

from stillroom.stages.train.metrics import Metrics, Window, read_metrics


def test_lines_after_the_checkpoint_and_a_torn_one_are_dropped(tmp_path):
    with Metrics(tmp_path, 0) as metrics:
        for step in (2, 4, 6):
            metrics.steps(step, step / 10, 0.1, {"loss": 1.0, "a/ce": 0.5}, 1.23456)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    with Metrics(tmp_path, 4) as metrics:
        metrics.values("scores", 5, 0.5, {"miou": 0.25, "iou": [math.nan, 0.5], "absent": ["pole"]})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert lines[0] == {
        "step": 2,
        "epoch": 0.2,
        "lr": 0.1,
        "loss": 1.0,
        "terms": {"a/ce": 0.5},
        "seconds": 1.235,
    }
    assert lines[2]["scores"] == {"miou": 0.25, "iou": [None, 0.5], "absent": ["pole"]}
    assert list(tmp_path.glob("events.out.tfevents*"))


def test_no_folder_has_no_lines(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_window_means_what_it_took_in_and_survives_its_state():
    window = Window()
    assert window.mean() == {}
    window.add(1.0, {"a": 2.0})
    resumed = Window(**json.loads(json.dumps(window.state())))
    resumed.add(3.0, {"a": 4.0})
    assert resumed.mean() == {"loss": 2.0, "a": 3.0}
