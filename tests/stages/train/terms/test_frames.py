"""The terms between frames of a clip: pairs of logits, and the embedding of whole triplets."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from student_output import student_output

from stillroom.stages.train.batch import Triplets
from stillroom.stages.train.losses.multi_frame import LEAST_SPREAD, PATIENCE, embedded, multi_frame
from stillroom.stages.train.losses.pairwise_frame import pairwise_frame
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.reads import TRIPLETS
from stillroom.storage_specs.errors import ArtifactError, ConfigError

TERMS = TypeAdapter(tuple[TermConfig, ...])
FRAMES = [[2, 3], [0, 1], [4, 5]]  # before, itself, after: frames of both triplets
PAIRS = [[0, 0, 1, 1], [2, 4, 3, 5]]  # frames, partners
COARSE = {"layer": "stage4", "teacher_layer": "deep", "patch": 1}


def pairwise(**section):
    return make(name="pairwise_frame", **section)


def multi(**section):
    return make(**{"name": "multi_frame", "weight": 0.1, "patch": 2, **section})


def make(**section):
    return TERMS.validate_python([{"teacher": "fpn", **section}])[0]


both = pytest.mark.parametrize("term", [pairwise(), multi()], ids=lambda term: term.name)


# pairwise_frame


@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("patch", [1, 2])
def test_pairs_are_compared_frame_with_partner(make_clip, of, patch):
    given = make_clip(pairwise(of=of, patch=patch))
    student, teacher = given.output.logits, given.batch.artifacts["fpn/logits"]
    sides = [[each[side] for side in PAIRS] for each in (student, teacher, given.batch.mask)]
    expected = pairwise_frame(*sides[:2], of=of, patch=patch, mask=sides[2])
    value = given.term.value(given)
    assert value.equal(expected)
    assert value > 0
    value.backward()
    assert (student.grad.flatten(1).abs().sum(1) > 0).all()


def test_a_student_that_says_what_its_teacher_says_costs_nothing(make_clip):
    given = make_clip(pairwise())
    theirs = student_output(given.batch.artifacts["fpn/logits"], {})
    assert given.term.value(replace(given, output=theirs)).item() == 0
    swapped = student_output(theirs.logits[[0, 1, 4, 5, 2, 3]], {})  # after before before
    assert given.term.value(replace(given, output=swapped)) > 0.001


def test_what_pairs_read():
    assert pairwise().reads(True) == pairwise().reads(False) == {"fpn/logits", TRIPLETS}
    assert not pairwise().whole_logits()
    assert pairwise(of="logits").whole_logits()
    assert (pairwise().weight, pairwise().patch, pairwise().of) == (0.1, 1, "probabilities")


# multi_frame


@pytest.mark.parametrize("section", [{}, {"enlarge": 0.0}, COARSE, {"hidden": 2, "kernel": 1}])
def test_triplets_are_embedded_in_the_order_of_time(make_clip, section):
    term = multi(**section)
    given = make_clip(term)
    layer, mask = (
        ("stage4", given.batch.masks[8])
        if term.layer == "stage4"
        else (
            "penultimate",
            given.batch.mask,
        )
    )
    key = "fpn/features/deep@8" if layer == "stage4" else "fpn/features/penultimate"
    student, teacher = given.output.features[layer], given.batch.artifacts[key]
    sequences = [[each[frames] for frames in FRAMES] for each in (student, teacher, mask)]
    network = given.state.network
    assert network.hidden == section.get("hidden", 4)
    assert network.gates.kernel_size[0] == section.get("kernel", 3)
    enlarge = section.get("enlarge", 0.1)
    options = {"embed": network, "patch": term.patch, "mask": sequences[2]}
    expected = multi_frame(*sequences[:2], enlarge=enlarge, **options)
    assert term.value(given).item() == pytest.approx(expected.item(), rel=1e-6)
    backwards = [each[::-1] for each in sequences]
    options["mask"] = backwards[2]
    turned = multi_frame(*backwards[:2], enlarge=enlarge, **options)
    assert turned.item() != pytest.approx(expected.item(), rel=1e-6)


def test_the_network_and_the_student_train_and_the_teacher_does_not(make_clip):
    given = make_clip(multi())
    teacher = given.batch.artifacts["fpn/features/penultimate"].requires_grad_()
    given.term.value(given).backward()
    trained = given.state.trained()
    assert len(trained) == 2
    assert all(parameter.grad.abs().sum() > 0 for parameter in trained)
    assert (given.features.grad.flatten(1).abs().sum(1) > 0).all()
    assert teacher.grad is None
    teacher.requires_grad_(False)


def test_the_clip_holds_after_every_step(make_clip):
    given = make_clip(multi(clip=0.05))
    optimiser = torch.optim.SGD(given.state.trained(), lr=1e3)
    for _ in range(3):
        optimiser.zero_grad()
        given.term.value(given).backward()
        optimiser.step()
        assert any(parameter.abs().max() > 0.05 for parameter in given.state.trained())
        given.state.after_step()
        assert all(parameter.abs().max() <= 0.05 for parameter in given.state.trained())


def test_what_triplets_read():
    term = multi(**COARSE)
    assert term.reads(True) == term.reads(False) == {"fpn/features/deep", TRIPLETS}
    plain = make(name="multi_frame", weight=0.1)
    assert (plain.weight, plain.patch, plain.enlarge, plain.clip) == (0.1, 16, 0.1, 0.1)


# collapse


def take_steps(given, count):
    for _ in range(count):
        given.term.value(given)
        given.state.after_step()


def collapse(state):
    """Every gate hangs on its bias alone: the embedding is the same whatever is embedded."""
    with torch.no_grad():
        state.network.gates.weight.zero_()
        state.network.gates.bias.fill_(0.1)


def warnings(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def test_a_collapsed_embedding_is_warned_of_once_and_a_healthy_one_is_not(make_clip, caplog):
    given = make_clip(multi())
    take_steps(given, 3 * PATIENCE)
    assert not warnings(caplog)
    collapse(given.state)
    take_steps(given, PATIENCE - 1)
    assert not warnings(caplog)
    take_steps(given, 3 * PATIENCE)
    assert len(warnings(caplog)) == 1
    for part in ("term multi_frame/fpn", "has collapsed", f"for {PATIENCE} steps", "`enlarge`"):
        assert part in warnings(caplog)[0]


def test_one_step_that_is_well_begins_the_count_again(make_clip, caplog):
    given = make_clip(multi())
    well = given.state.network.gates.state_dict()
    well = {key: value.clone() for key, value in well.items()}
    for _ in range(4):
        collapse(given.state)
        take_steps(given, PATIENCE - 10)
        given.state.network.gates.load_state_dict(well)
        take_steps(given, 1)
    assert not warnings(caplog)


def test_a_resumed_run_counts_on(make_clip, caplog):
    first, second = make_clip(multi()), make_clip(multi())
    collapse(first.state)
    take_steps(first, PATIENCE - 10)
    second.state.load_state_dict(first.state.state_dict())
    take_steps(second, PATIENCE)
    assert len(warnings(caplog)) == 1


def test_the_spread_is_told_of_the_batches_since_the_last_step(make_clip):
    given = make_clip(multi())
    assert given.state.watched() == {}
    given.term.value(given)
    frames = [[each[one] for one in FRAMES] for each in (given.features, given.batch.mask)]
    teacher = [given.batch.artifacts["fpn/features/penultimate"][one] for one in FRAMES]
    made = embedded(frames[0], teacher, embed=given.state.network, patch=2, mask=frames[1])
    spread = made.spread().item()
    assert spread > LEAST_SPREAD
    assert given.state.watched()["spread"].item() == pytest.approx(spread)
    collapse(given.state)
    given.term.value(given)  # another stream
    assert given.state.watched()["spread"].item() == pytest.approx(spread / 2, abs=1e-3)
    given.state.after_step()
    assert given.state.watched() == {}
    given.state.eval()
    given.term.value(given)
    assert given.state.watched() == {}


# of both


@both
def test_masked_cells_reach_neither_value_nor_gradient(make_clip, term):
    def found(rubbish):
        given = make_clip(term)
        mask = given.batch.mask

        def spoilt(maps):
            return maps.detach().clone().masked_fill(~mask, rubbish)

        logits = spoilt(given.output.logits).requires_grad_()
        features = spoilt(given.output.features["penultimate"]).requires_grad_()
        artifacts = {k: v if "@" in k else spoilt(v) for k, v in given.batch.artifacts.items()}
        value = term.value(
            replace(
                given,
                output=student_output(logits, {"penultimate": features}),
                batch=replace(given.batch, artifacts=artifacts),
            )
        )
        value.backward()
        return value, [one.grad for one in (logits, features) if one.grad is not None]

    (value, gradients), (other, others) = found(0.0), found(float("nan"))
    assert value.equal(other)
    assert all(one.equal(two) for one, two in zip(gradients, others, strict=True))


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast_is_compared_in_float32(make_clip, term, dtype):
    given = make_clip(term)
    features = given.output.features["penultimate"]

    def value(kind):
        output = student_output(
            given.output.logits.detach().to(dtype).to(kind),
            {"penultimate": features.detach().to(dtype).to(kind)},
        )
        return term.value(replace(given, output=output))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(dtype)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(value(torch.float32).item(), rel=1e-6)
    assert found.isfinite()


@both
def test_no_frames_to_compare_cost_nothing(make_clip, term):
    given = make_clip(term)
    near = given.batch.triplets
    none = Triplets(near.frames[:0], near.pairs[:0], near.flow[:0], near.visible[:0])
    value = term.value(replace(given, batch=replace(given.batch, triplets=none)))
    value.backward()
    assert value.item() == 0


@both
def test_a_batch_of_single_frames_is_refused(make_clip, term):
    given = make_clip(term, triplets=None)
    with pytest.raises(ArtifactError, match=rf"{term.name}/fpn .*'city' has single frames"):
        term.value(given)


@both
def test_maps_of_another_size_are_refused_naming_term_and_stream(make_clip, term):
    key = "fpn/logits" if term.name == "pairwise_frame" else "fpn/features/penultimate"
    given = make_clip(term, artifacts={key: torch.zeros(6, 3, 5, 5)})
    with pytest.raises(ArtifactError, match=rf"term {term.name}/fpn on stream city: .*5, 5\)"):
        given.value()


def test_a_map_of_one_place_is_refused_with_what_to_do(make_clip):
    given = make_clip(multi(patch=16))
    with pytest.raises(ArtifactError, match=r"multi_frame/fpn on stream city.*smaller patch"):
        given.value()


def test_layers_that_are_not_there_are_refused_at_start_up(sizes):
    with pytest.raises(ConfigError, match=r"multi_frame/fpn .*features/stage9"):
        multi(layer="stage9").state(sizes)
    with pytest.raises(ConfigError, match=r"fpn/features/stage2.*`stillroom cache extend`"):
        multi(teacher_layer="stage2").state(sizes)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"name": "pairwise_frame", "of": "features"}, "'probabilities' or 'logits'"),
        ({"name": "pairwise_frame", "patch": 0}, "greater than 0"),
        ({"name": "multi_frame", "patch": 0}, "greater than 0"),
        ({"name": "multi_frame", "kernel": 4}, "kernel must be odd, for a centre, got 4"),
        ({"name": "multi_frame", "clip": 0}, "greater than 0"),
        ({"name": "multi_frame", "enlarge": -0.1}, "greater than or equal to 0"),
        ({"name": "multi_frame", "hidden": 0}, "greater than 0"),
        ({"name": "multi_frame", "of": "logits"}, "Extra inputs"),
    ],
)
def test_impossible_options_are_refused(section, said):
    with pytest.raises(ValidationError, match=said):
        make(**section)
