"""The temporal term: what moves along the flow, on the grid of the logits and on pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from student_output import student_output

from stillroom.stages.train.batch import Batch, Triplets
from stillroom.stages.train.loss_parts.downsample import downsample_at_centres, downsample_by_means
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.losses.temporal import Correspondence, temporal
from stillroom.stages.train.reads import TRIPLETS
from stillroom.stages.upsample import upsample_logits
from stillroom.stages.warp import photometric_weight
from stillroom.storage_specs.errors import ArtifactError

TERMS = TypeAdapter(tuple[TermConfig, ...])
SIZE = (16, 22)
everywhere = pytest.mark.parametrize("at", ["cells", "pixels"])
OCCLUSIONS = ("photometric", "visible", "both", "none")


def make(**section):
    return TERMS.validate_python([{"name": "temporal", **section}])[0]


def normalised(images):
    mean = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    return (images - mean) / torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)


# values


@everywhere
@pytest.mark.parametrize("occlusion", OCCLUSIONS)
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_value_is_the_loss_over_all_pairs(make_clip, at, occlusion, variant):
    given = make_clip(make(at=at, occlusion=occlusion, variant=variant))
    near, images = given.batch.triplets, normalised(given.batch.images)
    now, later = near.pairs[:, 0], near.pairs[:, 1]
    channels = "summed" if variant == "released" else "apart"
    photometric = photometric_weight(images[now], images[later], near.flow, channels=channels)
    weight = {
        "photometric": photometric,
        "visible": near.visible.float(),
        "both": photometric * near.visible,
        "none": torch.ones_like(photometric),
    }[occlusion]
    if at == "cells":
        logits, mask = given.output.logits, given.batch.mask
        flow, weight = downsample_at_centres(near.flow, 4) / 4, downsample_by_means(weight, 4)
    else:
        logits = upsample_logits(given.output.logits, 4, SIZE)
        mask, flow = given.batch.masks[1], near.flow
    match = Correspondence(flow, weight, mask[later])
    expected = temporal(logits[now], logits[later], match, variant=variant, mask=mask[now])
    assert 0.001 < given.term.value(given).item() == pytest.approx(expected.item(), rel=1e-5)


def moving(logits, image, step):
    """A triplet of a scene that moves by `step` (rows, columns) of cells a frame, stride 4."""

    def shifted(maps, factor):
        rolls = [(0, 0), tuple(-each for each in step), step]
        return torch.stack([maps.roll([factor * r for r in roll], (1, 2)) for roll in rolls])

    flow = 4 * torch.tensor([step[1], step[0]]).view(1, 2, 1, 1).float()
    height, width = image.shape[1:]
    mask = torch.zeros(3, 1, height // 4, width // 4).bool()
    mask[:, :, 1:-1, 1:-1] = True  # upsampling repeats the edge, which does not move along
    batch = Batch(
        stream="city",
        labelled=False,
        images=shifted(image, 4),
        labels=None,
        mask=mask,
        masks={1: torch.kron(mask, torch.ones(4, 4).bool())},
        triplets=Triplets(
            frames=torch.tensor([[1, 0, 2]]),
            pairs=torch.tensor([[0, 1], [0, 2]]),
            flow=torch.cat([-flow, flow]).expand(2, 2, height, width).contiguous(),
            visible=torch.ones(2, 1, height, width).bool(),
        ),
    )
    return student_output(shifted(logits, 1).requires_grad_(), {}), batch


@everywhere
@pytest.mark.parametrize("occlusion", OCCLUSIONS)
@pytest.mark.parametrize("step", [(0, 2), (-1, 1), (0, 0)])
def test_predictions_that_move_along_cost_nothing_and_others_do(make_clip, at, occlusion, step):
    generator = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(5, 8, 12, generator=generator)
    image = 255 * torch.rand(3, 32, 48, generator=generator)
    output, batch = moving(logits, image, step)
    given = make_clip(make(at=at, occlusion=occlusion))

    def value(output=output, **changes):
        changed = replace(batch, triplets=replace(batch.triplets, **changes))
        return given.term.value(replace(given, output=output, batch=changed)).item()

    assert value() == pytest.approx(0, abs=1e-10)
    steady = value(student_output(logits.expand(3, *logits.shape), {}))
    assert steady == pytest.approx(0, abs=1e-10) if step == (0, 0) else steady > 0.01
    if occlusion in ("visible", "none"):  # another flow explains the images no more either
        assert value(flow=batch.triplets.flow + 4) > 0.01
        backwards = value(flow=-batch.triplets.flow)
        assert backwards == pytest.approx(0, abs=1e-10) if step == (0, 0) else backwards > 0.01


def test_by_the_photometric_weight_a_wrong_flow_hardly_counts(make_clip):
    generator = torch.Generator().manual_seed(4)
    logits, image = 3 * torch.randn(5, 8, 12, generator=generator), torch.rand(3, 32, 48)
    output, batch = moving(logits, 255 * image, (0, 1))
    batch.triplets.flow = -batch.triplets.flow
    values = {}
    for occlusion in ("photometric", "none"):
        given = make_clip(make(occlusion=occlusion))
        values[occlusion] = given.term.value(replace(given, output=output, batch=batch)).item()
    assert 0 < values["photometric"] < 0.3 * values["none"]


@everywhere
def test_what_the_partner_does_not_show_costs_nothing(make_clip, at):
    given = make_clip(make(at=at, occlusion="visible"))
    near = given.batch.triplets
    hidden = replace(near, visible=torch.zeros_like(near.visible))
    half = near.visible.clone()
    half[2:] = False
    whole = given.term.value(given).item()
    assert 0 < given.term.value(replace_triplets(given, replace(near, visible=half))).item() < whole
    assert given.term.value(replace_triplets(given, hidden)).item() == 0


def replace_triplets(given, triplets):
    return replace(given, batch=replace(given.batch, triplets=triplets))


# gradient, masks, precision


@everywhere
def test_both_frames_of_a_pair_get_the_gradient(make_clip, at):
    given = make_clip(make(at=at))
    given.term.value(given).backward()
    gradient = given.output.logits.grad
    assert (gradient.flatten(1).abs().sum(1) > 0).all()
    assert gradient.isfinite().all()


def test_what_does_not_show_the_frame_reaches_neither_value_nor_gradient(make_clip):
    """On cells: on pixels, upsampling mixes the cells on both sides of the frame's edge."""

    def found(rubbish):
        given = make_clip(make(at="cells", occlusion="visible"))
        logits = given.output.logits.detach().clone()
        logits = logits.masked_fill(~given.batch.mask, rubbish).requires_grad_()
        value = given.term.value(replace(given, output=student_output(logits, {})))
        value.backward()
        return value, logits.grad

    (value, gradient), (spoilt, other) = found(0.0), found(float("nan"))
    assert value.equal(spoilt)
    assert gradient.equal(other)


@everywhere
@pytest.mark.parametrize("occlusion", ["photometric", "visible"])
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf")])
def test_a_flow_that_is_not_known_does_not_count(make_clip, at, occlusion, rubbish):
    given = make_clip(make(at=at, occlusion=occlusion))
    flow = given.batch.triplets.flow.clone()
    flow[0, :, 3:9, 3:9] = rubbish
    value = given.term.value(replace_triplets(given, replace(given.batch.triplets, flow=flow)))
    value.backward()
    assert value.isfinite()
    assert value > 0
    assert given.output.logits.grad.isfinite().all()


@everywhere
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast_is_compared_in_float32(make_clip, at, dtype):
    given = make_clip(make(at=at))
    logits = given.output.logits.detach().to(dtype)

    def value(logits):
        return given.term.value(replace(given, output=student_output(logits, {})))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(logits)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(value(logits.float()).item(), rel=1e-6)


@everywhere
def test_no_pairs_cost_nothing(make_clip, at):
    given = make_clip(make(at=at))
    near = given.batch.triplets
    none = Triplets(near.frames, near.pairs[:0], near.flow[:0], near.visible[:0])
    value = given.term.value(replace_triplets(given, none))
    value.backward()
    assert value.item() == 0
    assert given.output.logits.grad.eq(0).all()


def test_the_sizes_need_not_be_multiples_of_the_stride(make_clip):
    for at in ("cells", "pixels"):
        given = make_clip(make(at=at))
        assert given.batch.images.shape[3] % 4
        assert given.term.value(given) > 0


# what it reads, and what it refuses


def test_it_reads_triplets_and_no_artifact():
    term = make()
    assert term.reads(True) == term.reads(False) == {TRIPLETS}
    assert (term.label, term.weight, term.at) == ("temporal", 0.1, "cells")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"teacher": "fpn"}, "no teacher is asked: leave `teacher` out"),
        ({"occlusion": "hidden"}, "'photometric', 'visible', 'both' or 'none'"),
        ({"at": "image"}, "'cells' or 'pixels'"),
        ({"variant": "code"}, "'paper' or 'released'"),
        ({"weight": 0}, "greater than 0"),
        ({"patch": 2}, "Extra inputs"),
    ],
)
def test_impossible_options_are_refused(section, said):
    with pytest.raises(ValidationError, match=said):
        make(**section)


def test_a_batch_of_single_frames_is_refused(make_clip):
    given = make_clip(make(), triplets=None)
    with pytest.raises(ArtifactError, match=r"temporal .*'city' has single frames.*`triplets`"):
        given.term.value(given)


def test_flow_of_another_size_is_refused_naming_term_and_stream(make_clip):
    given = make_clip(make(occlusion="none"))
    near = given.batch.triplets
    with pytest.raises(ArtifactError, match=r"term temporal on stream city: flow must be"):
        replace_triplets(given, replace(near, flow=near.flow[..., :8])).value()
