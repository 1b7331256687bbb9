"""A real GPU computes what the CPU does, and no step waits for it.

The checks of the make-believe device that hold on a real one as well are taken from there.
"""

from __future__ import annotations

import pytest
import torch
from make_believe.on_device.check_decode import (  # noqa: F401
    test_values_on_the_device_are_those_of_the_host,
)
from make_believe.on_device.check_stage_one import (  # noqa: F401
    test_every_kind_of_teacher_says_the_same,
)
from make_believe.on_device.check_step import (  # noqa: F401
    document,
    test_half_precision_is_near_and_scales_its_loss,
    test_weights_lie_in_the_order_of_their_images,
    trained,
)
from make_believe.on_device.check_terms import (  # noqa: F401
    seed,
    test_a_memory_that_is_not_full_yet,
    test_moments_of_no_and_of_some_columns,
    test_pixels_are_augmented_by_the_matrix_of_their_class,
    test_sums_that_float32_loses_are_kept,
)

from stillroom.pipeline.run_file.sections import RunConfig
from stillroom.pipeline.training import profile_training, train_run
from stillroom.stages.train.session import Session
from stillroom.storage_specs.errors import ConfigError

DRAWING = {  # by the device's own generator, whose numbers are others than the CPU's
    "auxiliary_cross_entropy", "cross_image_memory", "cross_image_pixel", "masked_generative",
}  # fmt: skip


def test_every_term_that_draws_nothing_has_its_value_on_the_cpu(document):  # noqa: F811
    document["terms"] = [one for one in document["terms"] if one["name"] not in DRAWING]
    expected, found = (
        trained(document, device, device=device, amp="off", steps=2) for device in ("cpu", "cuda")
    )
    assert found[1].terms == pytest.approx(expected[1].terms, rel=2e-3, abs=1e-5)
    assert found[2].terms == pytest.approx(expected[2].terms, rel=2e-2, abs=1e-4)


def test_a_run_has_the_losses_of_one_that_the_host_decodes(document):  # noqa: F811
    by_host, by_device = (
        trained(document, decode, amp="off", decode=decode, steps=2)
        for decode in ("host", "device")
    )
    assert by_device[1].terms == pytest.approx(by_host[1].terms, rel=1e-3, abs=1e-5)
    assert by_device[2].terms == pytest.approx(by_host[2].terms, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("amp", ["off", "bfloat16"])
def test_no_step_synchronises(document, monkeypatch, amp):  # noqa: F811
    """Torch raises at whatever synchronises, in every step but the first."""
    step = Session.step

    def strictly(session, parts):
        torch.cuda.set_sync_debug_mode("error" if session.learner.step else "default")
        try:
            step(session, parts)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Session, "step", strictly)
    assert len(trained(document, "run", amp=amp)) > 1


def test_a_resumed_run_goes_on_as_the_one_that_was_not_interrupted(document):  # noqa: F811
    """To the rounding of sums whose order a GPU does not keep."""
    whole = trained(document, "whole", amp="off")

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    settings = {**document["train"], "path": "parts", "amp": "off"}
    with pytest.raises(KeyboardInterrupt):
        train_run(RunConfig.model_validate({**document, "train": settings}), stop)
    rest = trained(document, "parts", amp="off")
    assert rest
    for number, progress in rest.items():
        assert progress.terms == pytest.approx(whole[number].terms, rel=1e-2, abs=1e-4)


def test_a_compiled_student_trains(document):  # noqa: F811
    plain, made = (
        trained(document, name, amp="off", steps=1, compile=name == "made")
        for name in ("plain", "made")
    )
    assert made[1].terms == pytest.approx(plain[1].terms, rel=1e-2, abs=1e-4)


def test_what_does_not_fit_is_named(document):  # noqa: F811
    torch.cuda.set_per_process_memory_fraction(1e-5)
    torch.cuda.empty_cache()
    try:
        with pytest.raises(ConfigError, match=r"out of device memory in .*train\.accumulate"):
            trained(document, "run", amp="off")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_profile_has_the_kernels(document):  # noqa: F811
    found = profile_training(RunConfig.model_validate(document))
    assert found.trace.stat().st_size > 0
    assert {"forward", "backward", "optimiser"} <= {part.name for part in found.parts}
