"""Frames that are decoded on the make-believe device: the host's values, and fewer bytes to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from make_believe.on_device.check_step import document, trained, waits  # noqa: F401
from make_believe.record import RECORD

from stillroom.pipeline.run_file.sections import RunConfig
from stillroom.pipeline.training import prepare_job
from stillroom.stages.nvtx import show_ranges
from stillroom.stages.train.packed.arrival import on_device
from stillroom.stages.train.packed.packed_batch import PackedBatch
from stillroom.stages.train.stream import open_loader

CUDA = torch.device("cuda")
LIT = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}


def batches(document: dict[str, Any], **settings: Any) -> list[Any]:  # noqa: F811
    """The first batch of every stream, as the loader hands it out."""
    train = {**document["train"], "jitter": LIT, **settings}
    job = prepare_job(RunConfig.model_validate({**document, "train": train}))
    with open_loader(job, steps=1) as loader:
        return next(iter(loader))


def test_values_on_the_device_are_those_of_the_host(document):  # noqa: F811
    by_host = on_device(batches(document, decode="host"), CUDA)
    assert set(by_host[0].targets) == {"depth", "normals"}
    for loader in ("threads", "processes"):
        packed = batches(document, loader=loader)
        assert all(isinstance(batch, PackedBatch) for batch in packed)
        by_device = on_device(packed, CUDA)
        for found, expected in zip(by_device, by_host, strict=True):
            assert found.images.is_cuda
            assert found.frame_ids == expected.frame_ids
            # Contrast is about a mean that is added up in another order.
            torch.testing.assert_close(found.images.cpu(), expected.images.cpu(), rtol=0, atol=1e-3)
            for name in ("labels", "mask"):
                one, other = getattr(found, name), getattr(expected, name)
                assert (one is None) == (other is None)
                assert one is None or torch.equal(one.cpu(), other.cpu())
            if expected.triplets is not None:
                made, wanted = (
                    (each.triplets.flow.cpu(), each.triplets.visible.cpu().float())
                    for each in (found, expected)
                )
                torch.testing.assert_close(made[0], wanted[0], rtol=1e-6, atol=1e-5)
                assert (made[1] - wanted[1]).abs().mean() < 1e-3  # a threshold may be met or not
            assert found.targets.keys() == expected.targets.keys()
            for name, values in expected.targets.items():
                torch.testing.assert_close(
                    found.targets[name].cpu(), values.cpu(), rtol=1e-6, atol=1e-6
                )
            for name, values in expected.artifacts.items():
                torch.testing.assert_close(
                    found.artifacts[name].cpu(), values.cpu(), rtol=1e-6, atol=1e-5
                )


def test_nothing_waits_for_bytes_or_what_is_made_of_them(document):  # noqa: F811
    packed = batches(document)
    show_ranges("cuda")
    RECORD.clear()
    on_device(packed, CUDA)
    assert not RECORD.waits
    assert {"copy", "unpack"} <= RECORD.ranges.keys()


@pytest.mark.parametrize("mix", ["cutmix", "classmix"])
def test_frames_are_mixed_on_the_device_without_waiting(document, mix):  # noqa: F811
    document["train"]["streams"] = {"more": {"batch": 2, "mix": mix}}
    document["terms"] = [{"name": "pixelwise_kl", "teacher": "tiny"}]
    del document["student"]["heads"]  # what no term teaches is refused
    (expected,) = on_device(batches(document, decode="host"), torch.device("cpu"))
    packed = batches(document)
    RECORD.clear()
    (found,) = on_device(packed, CUDA)
    assert not RECORD.waits
    assert found.mix is None
    torch.testing.assert_close(found.images.cpu(), expected.images, rtol=0, atol=1e-3)
    assert found.mask.cpu().equal(expected.mask)


def test_the_bytes_of_a_frame_are_a_fraction_of_what_they_were(document):  # noqa: F811
    document["train"]["streams"] = {"street": {"batch": 2}}  # single frames
    document["terms"] = [{"name": "pixelwise_kl", "teacher": "tiny"}, {"name": "cross_entropy"}]
    del document["student"]["heads"]  # what no term teaches is refused
    sent = {}
    for decode in ("host", "device"):
        made = batches(document, decode=decode, view={"crop": [32, 32], "flip": True})
        frames = sum(len(batch.frame_ids) for batch in made)
        RECORD.clear()
        on_device(made, CUDA)
        sent[decode] = RECORD.sent / frames
    # Of 32 x 32 pixels 12 bytes of a float image and 8 of a label, against 3 bytes and 1.
    assert sent["host"] > 20 * 32 * 32
    assert 4 * 32 * 32 < sent["device"] < sent["host"] / 3


@pytest.mark.parametrize("decode", ["host", "device"])
def test_no_step_waits_wherever_frames_are_decoded(document, waits, decode):  # noqa: F811
    trained(document, "run", amp="off", steps=3, decode=decode, jitter=LIT)
    for before, whole in waits[1:]:
        assert not before
        assert not whole


def test_a_run_has_the_losses_of_one_that_the_host_decodes(document):  # noqa: F811
    by_host, by_device = (
        trained(document, decode, amp="off", decode=decode, steps=5)
        for decode in ("host", "device")
    )
    assert list(by_device) == [1, 2, 3, 4, 5]
    for step, progress in by_device.items():
        assert progress.terms == pytest.approx(by_host[step].terms, rel=1e-4, abs=1e-6)
