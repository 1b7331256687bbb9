"""Whole runs whose batches are unpacked on the device that trains."""

from __future__ import annotations

import pytest

from stillroom.stages.train.check import check
from stillroom.stages.train.loop import train
from stillroom.stages.train.packed.packed_batch import PackedBatch
from stillroom.stages.train.stream import open_loader

OPTIONS = {
    "view": {"crop": [16, 20], "scale": [0.7, 1.4], "flip": True},
    "jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3},
    "log_every": 1,
}


def losses(make_job, run, **options):
    found = {}
    job = make_job(
        run, seed=0, on_step=lambda p: found.update({p.step: p.terms}), **{**OPTIONS, **options}
    )
    train(job)
    return found


@pytest.mark.parametrize("more", [{}, {"accumulate": 2}], ids=["whole", "parts"])
def test_every_term_of_every_step_is_that_of_a_run_that_the_host_decodes(make_job, more):
    by_host, by_device = (
        losses(make_job, decode, decode=decode, **more) for decode in ("host", "device")
    )
    assert list(by_device) == list(by_host) == [1, 2, 3, 4, 5, 6]
    for step, terms in by_device.items():
        assert terms == pytest.approx(by_host[step], rel=1e-5)


def test_a_run_resumes_wherever_frames_are_decoded(make_job):
    whole = losses(make_job, "whole", decode="device")

    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_job("parts", seed=0, on_step=stop, decode="host", **OPTIONS))
    rest = losses(make_job, "parts", decode="device")
    assert min(rest) == 4
    for step, terms in rest.items():
        assert terms == pytest.approx(whole[step], rel=1e-5)


@pytest.mark.slow
def test_processes_pack_what_threads_pack(make_job):
    by_threads, by_processes = (
        losses(make_job, loader, decode="device", loader=loader)
        for loader in ("threads", "processes")
    )
    assert by_processes == by_threads


def test_the_host_decodes_unless_the_device_is_a_gpu_or_it_is_asked_for(make_job):
    for decode, packed in ((None, False), ("host", False), ("device", True)):
        with open_loader(make_job("run", decode=decode)) as loader:
            (batch,) = next(iter(loader))
        assert isinstance(batch, PackedBatch) == packed
        assert batch.to("cpu").frame_ids == batch.frame_ids


def test_terms_are_measured_on_unpacked_batches(make_job):
    by_host, by_device = (
        check(make_job("run", seed=0, decode=decode, **OPTIONS), steps=1)
        for decode in ("host", "device")
    )
    for one, other in zip(by_device.terms, by_host.terms, strict=True):
        assert one.values == pytest.approx(other.values, rel=1e-5)
