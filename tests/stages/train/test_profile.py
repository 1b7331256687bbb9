"""Where a step's time goes: the parts, what is named, and the trace."""

from __future__ import annotations

import json
import threading
import time

import pytest
import torch

from stillroom.stages.train.loop import train
from stillroom.stages.train.profile import ADVICE, Part, SpanSeconds, bottleneck_of, profile
from stillroom.storage_specs.spans import listening, span


def test_the_parts_of_a_step_add_up_and_a_trace_names_them(make_job, tmp_path):
    job = make_job("run", seed=0, jitter={"brightness": 0.2})
    found = profile(job, steps=4)
    names = [part.name for part in found.parts]
    terms = [f"term {label}" for label in job.objective.labels]
    assert names == ["wait", "copy", "forward", *terms, "backward", "optimiser"]
    assert {part.name for part in found.loader} == {"read", "decode", "warp", "jitter"}
    assert 0.3 < sum(part.share for part in found.parts) <= 1
    for part in (*found.parts, *found.loader):
        assert part.share == pytest.approx(part.seconds / found.step_seconds)
    assert found.bottleneck in (*names, "read", "decode", "warp", "jitter")
    assert found.trace == tmp_path / "run/trace.json"
    events = json.loads(found.trace.read_text())["traceEvents"]
    assert set(names) <= {event.get("name") for event in events}
    assert found.to_dict()["trace"] == str(found.trace)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["trace.json"]
    assert not train(make_job("run", seed=0, jitter={"brightness": 0.2})).already_finished


def test_decoding_on_the_device_is_a_part_of_its_own(make_job):
    found = profile(make_job("run", seed=0, decode="device"), steps=2)
    names = [part.name for part in found.parts]
    assert names[:4] == ["wait", "copy", "unpack", "forward"]
    assert {part.name for part in found.loader} <= {"read", "decode"}
    assert {"unpack"} <= ADVICE.keys()


def test_seconds_are_of_the_span_and_of_the_thread():
    seconds = SpanSeconds(torch.device("cpu"))

    def work(name):
        with span(name):
            time.sleep(0.02)

    with listening(seconds):
        work("own")
        thread = threading.Thread(target=work, args=("other",))
        thread.start()
        thread.join()
        work("own")
    assert list(seconds.own) == ["own"]
    assert list(seconds.others) == ["other"]
    assert seconds.own["own"] >= 0.04
    assert seconds.others["other"] >= 0.02


@pytest.mark.parametrize(
    ("own", "loader", "expected"),
    [
        ({"wait": 0.05, "forward": 0.3, "backward": 0.6}, {"warp": 2.0}, "backward"),
        ({"wait": 0.2, "forward": 0.3, "backward": 0.5}, {"read": 0.1, "warp": 2.0}, "warp"),
        ({"wait": 0.2, "forward": 0.3, "backward": 0.5}, {}, "wait"),  # processes tell nothing
        ({"wait": 0.0, "term dist/fpn": 0.7, "backward": 0.2}, {}, "term dist/fpn"),
    ],
)
def test_the_bottleneck_is_what_a_step_waits_for_or_spends_most_on(own, loader, expected):
    def parts(seconds):
        return [Part(name, each, each) for name, each in seconds.items()]

    found = bottleneck_of(parts(own), parts(loader))
    assert found == expected
    assert found.partition(" ")[0] in ADVICE
