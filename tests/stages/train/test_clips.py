"""Streams of clips beside streams of single frames: what each feeds, and runs of both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter

from stillroom.stages.train import check as checking
from stillroom.stages.train import loop
from stillroom.stages.train.batch import Batch, Triplets
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.metrics import read_metrics
from stillroom.stages.train.objective import Objective
from stillroom.storage_specs.errors import ConfigError

TERMS = TypeAdapter(tuple[TermConfig, ...])
STRIDES = {"logits": 4, "features/penultimate": 4}
LABELS, KL = {"name": "cross_entropy"}, {"name": "pixelwise_kl", "teacher": "fpn"}
TEMPORAL = {"name": "temporal"}
PAIRS = {"name": "pairwise_frame", "teacher": "fpn"}
FRAMES = {"name": "multi_frame", "teacher": "fpn", "patch": 2, "weight": 0.1}
EVERY = (LABELS, KL, TEMPORAL, PAIRS, FRAMES)
HELD = {"fpn/logits", "fpn/features/penultimate"}
CLASSES, SIZE = 4, (24, 32)


def objective(*sections):
    return Objective(TERMS.validate_python(sections))


def check(*sections, softmax_only=frozenset(), **available):
    objective(*sections).check(available, {"fpn": 3}, 3, {}, softmax_only)


# what each kind of stream feeds


def test_single_frames_feed_no_term_of_clips():
    made = objective(*EVERY)
    single = ["cross_entropy", "pixelwise_kl/fpn"]
    of_clips = ["temporal", "pairwise_frame/fpn", "multi_frame/fpn"]
    assert made.active(True) == single
    assert made.active(True, clips=True) == single + of_clips
    assert made.active(False, clips=True) == single[1:] + of_clips


def test_what_only_clips_need_is_not_read_of_single_frames():
    made = objective(LABELS, TEMPORAL, PAIRS, {**FRAMES, "teacher_layer": "deep"})
    for clips, expected in ((False, set()), (True, {"fpn/logits", "fpn/features/deep"})):
        assert made.artifacts(True, clips=clips) == expected
        assert made.needs(True, STRIDES, clips=clips) == expected
    assert made.needs(True, STRIDES) == set()


def test_a_run_of_both_kinds_passes():
    check(*EVERY, camvid={"labels", *HELD}, city={"triplets", *HELD})
    check(*EVERY, city={"labels", "triplets", *HELD})


def test_a_teacher_may_be_trained_along_clips_without_one():
    objective(LABELS, TEMPORAL).check({"city": {"labels", "triplets"}}, {}, 3)
    assert objective(LABELS, TEMPORAL).artifacts(True, clips=True) == set()


@pytest.mark.parametrize("section", [TEMPORAL, PAIRS, FRAMES])
def test_a_term_of_clips_that_no_stream_feeds_is_refused_with_what_to_set(section):
    with pytest.raises(ConfigError) as error:
        check(LABELS, section, camvid={"labels", *HELD})
    (fault,) = str(error.value).splitlines()
    for part in (f"term {section['name']}", "no stream has any", "set `triplets` on a stream"):
        assert part in fault


def test_a_stream_of_single_frames_that_feeds_no_term_is_refused_saying_why():
    with pytest.raises(ConfigError) as error:
        check(LABELS, PAIRS, city={"labels", "triplets", *HELD}, rest=HELD)
    (fault,) = str(error.value).splitlines()
    assert fault.startswith("stream rest feeds no term of cross_entropy, pairwise_frame/fpn: ")
    assert "its frames are single; if they belong to clips, set `triplets`" in fault
    with pytest.raises(ConfigError, match="it is unlabelled, and none of them names a teacher"):
        check(LABELS, city={"triplets"})


@pytest.mark.parametrize(
    ("section", "artifact"),
    [(PAIRS, "logits"), (FRAMES, "features/penultimate")],
)
def test_what_is_not_cached_is_refused_with_the_command(section, artifact):
    with pytest.raises(ConfigError) as error:
        check(LABELS, section, city={"labels", "triplets"})
    for part in (f"fpn/{artifact} on stream city, whose cache holds labels;", "`stillroom cache"):
        assert part in str(error.value)
    assert f"add '{artifact}' to cache.artifacts" in str(error.value)


def test_a_term_that_learns_from_a_teacher_names_one():
    for name in ("pairwise_frame", "multi_frame"):
        with pytest.raises(ConfigError, match=rf"{name} .* names none.*: fpn$"):
            check({"name": name, "weight": 1}, city={"labels", "triplets", *HELD})


def test_cosines_of_logits_need_more_than_their_softmax():
    held = {"labels", "triplets", *HELD}
    check(PAIRS, softmax_only={"fpn"}, city=held)
    with pytest.raises(ConfigError, match="needs the logits of teacher fpn themselves"):
        check({**PAIRS, "of": "logits"}, softmax_only={"fpn"}, city=held)


# whole runs


def clips_of(step, labelled=True):
    """Two triplets of noise, of which the frames themselves have labels."""
    generator = torch.Generator().manual_seed(step)
    cells = (SIZE[0] // 4, SIZE[1] // 4)
    labels = torch.randint(0, CLASSES, (6, *SIZE), generator=generator)
    labels[2:] = 255
    pairs = torch.tensor([[0, 2], [0, 4], [1, 3], [1, 5]])
    return Batch(
        stream="city",
        labelled=labelled,
        images=255 * torch.rand(6, 3, *SIZE, generator=generator),
        labels=labels if labelled else None,
        mask=torch.ones(6, 1, *cells).bool(),
        artifacts={
            "fpn/logits": 3 * torch.randn(6, CLASSES, *cells, generator=generator),
            "fpn/features/penultimate": torch.randn(6, 5, *cells, generator=generator).relu(),
        },
        triplets=Triplets(
            frames=torch.tensor([[2, 0, 4], [3, 1, 5]]),
            pairs=pairs,
            flow=2 * torch.randn(4, 2, *SIZE, generator=generator),
            visible=torch.ones(4, 1, *SIZE).bool(),
        ),
    )


def single_of(step):
    clip = clips_of(1000 + step)
    return replace(clip, stream="camvid", labels=clip.labels.clamp(max=3), triplets=None)


@pytest.fixture
def make_clips_job(make_job, monkeypatch):
    """A job whose loader yields batches made by hand: a stream of single frames, one of clips."""

    class ByHand:
        def __init__(self, job, start_step=0, steps=None):
            self.steps = range(start_step, job.steps if steps is None else steps)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __iter__(self):
            return ([single_of(step), clips_of(step)] for step in self.steps)

    monkeypatch.setattr(loop, "open_loader", ByHand)
    monkeypatch.setattr(checking, "open_loader", ByHand)
    streams = {"camvid": {"batch": 6}, "city": {"source": "camvid", "batch": 2}}

    def make(run, *sections, **options):
        teachers = {"fpn/logits": CLASSES, "fpn/features/penultimate": 5}
        return make_job(run, sections, streams=streams, teachers=teachers, **options)

    return make


def lines(job):
    every = read_metrics(job.settings.path)
    return [{k: v for k, v in line.items() if k != "seconds"} for line in every]


def test_one_run_learns_from_clips_and_single_frames(make_clips_job):
    job = make_clips_job("run", *EVERY, steps=4, log_every=2)
    loop.train(job)
    written = lines(job)
    found = [line["terms"] for line in written if "terms" in line]
    both = {"cross_entropy", "pixelwise_kl/fpn"}
    clips = both | {"temporal", "pairwise_frame/fpn", "multi_frame/fpn"}
    names = {f"camvid/{name}" for name in both} | {f"city/{name}" for name in clips}
    assert len(found) == 3
    assert all(line.keys() == names for line in found)
    assert all(value > 0 for line in found for value in line.values())
    gradients = next(line["gradients"] for line in written if "gradients" in line)
    assert gradients.keys() == names
    assert all(norm > 0 for norm in gradients.values())


def test_the_spread_of_an_embedding_is_in_the_metrics(make_clips_job):
    job = make_clips_job("run", *EVERY, steps=4, log_every=2)
    loop.train(job)
    found = [line for line in lines(job) if "watched" in line]
    assert [line["step"] for line in found] == [1, 2, 4]
    for line in found:
        (value,) = (line["watched"][name] for name in ["multi_frame/fpn/spread"])
        assert 0 < value < 1
    quiet = make_clips_job("quiet", LABELS, TEMPORAL, steps=2)
    loop.train(quiet)
    assert not any("watched" in line for line in lines(quiet))


def test_a_resumed_run_is_the_one_that_was_not_interrupted(make_clips_job):
    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    options = {"steps": 6, "log_every": 2, "gradients_every": 4}
    whole = make_clips_job("whole", *EVERY, seed=0, **options)
    loop.train(whole)
    half = make_clips_job("half", *EVERY, seed=0, on_step=stop, **options)
    with pytest.raises(KeyboardInterrupt):
        loop.train(half)
    rest = make_clips_job("half", *EVERY, seed=1, **options)  # another start, to be overwritten
    loop.train(rest)
    assert lines(rest) == lines(whole)
    for key, value in whole.objective.states.state_dict().items():
        assert rest.objective.states.state_dict()[key].equal(value), key
    for key, value in whole.student.state_dict().items():
        assert rest.student.state_dict()[key].equal(value), key


def test_a_check_measures_terms_of_clips_in_the_steps_of_training(make_clips_job):
    checked = checking.check(make_clips_job("checked", *EVERY, seed=0, steps=3), 3)
    measured = {f"{one.stream}/{one.label}": one for one in checked.terms}
    steps = []
    loop.train(make_clips_job("trained", *EVERY, seed=0, steps=3, on_step=steps.append))
    assert measured.keys() == steps[0].terms.keys()
    for name, one in measured.items():
        assert one.values == [step.terms[name] for step in steps]
        assert one.peak_bytes > 0
        assert min(one.gradients) > 0


def test_the_temporal_loss_makes_predictions_steadier(make_clips_job, monkeypatch):
    """With no teacher at all: so that a teacher can be trained along clips, too."""
    values = {}
    for weight in (1e-6, 10.0):
        steps = []
        sections = (LABELS, {**TEMPORAL, "weight": weight, "occlusion": "none"})
        options = {"seed": 0, "steps": 30, "on_step": steps.append, "gradients_every": 0}
        loop.train(make_clips_job(f"run {weight}", *sections, **options))
        values[weight] = sum(step.terms["city/temporal"] for step in steps[-5:]) / 5
    assert values[10.0] < 0.5 * values[1e-6]
