"""torchvision's transforms on the student's input: draws, what stays, what is refused."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from stillroom.stages.train.augment import Augment
from stillroom.stages.train.augment_settings import PHOTOMETRIC
from stillroom.stages.train.batch import Batch, Triplets
from stillroom.stages.train.loop import train
from stillroom.stages.train.metrics import read_metrics
from stillroom.stages.train.settings import TrainConfig
from stillroom.storage_specs.errors import ConfigError

MINIMAL = {"path": "runs/a", "streams": {"camvid": {"batch": 2}}, "steps": 3}
NEEDED = {
    "GaussianBlur": {"kernel_size": 3},
    "Grayscale": {"num_output_channels": 3},
    "RandomAdjustSharpness": {"sharpness_factor": 2},
    "RandomPosterize": {"bits": 3},
    "RandomSolarize": {"threshold": 128},
    "ColorJitter": {"brightness": 0.5},
}


def settings(*augment):
    return TrainConfig.model_validate({**MINIMAL, "augment": list(augment)}).augment


def batch(count=4, clips=False):
    generator = torch.Generator().manual_seed(0)
    frames = 3 * count if clips else count
    triplets = Triplets(*[torch.zeros(0)] * 4) if clips else None  # that it is one counts alone
    return Batch(
        stream="camvid",
        frame_ids=[str(index) for index in range(frames)],
        images=50 + 150 * torch.rand(frames, 3, 24, 32, generator=generator),
        labels=None,
        labelled=False,
        mask=torch.ones(frames, 1, 6, 8, dtype=torch.bool),
        artifacts={},
        triplets=triplets,
    )


@pytest.mark.parametrize("name", [name for name in PHOTOMETRIC if name != "JPEG"])
def test_every_transform_changes_some_frames_and_depends_on_the_seed_alone(name):
    augment = Augment(settings({"name": name, **NEEDED.get(name, {})}))
    given = batch(8)
    before = given.images.clone()
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(augment(given))
    assert torch.equal(given.images, before)
    assert made[0].dtype == torch.float32
    assert made[0].shape == before.shape
    assert made[0].min() >= 0
    assert made[0].max() <= 255
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], before.round())
    if name != "Grayscale":  # which draws nothing
        assert not torch.equal(made[0], made[2])


def test_transforms_follow_one_another_and_p_is_their_probability():
    given = batch()
    pixels = given.images.round()
    inverted = Augment(settings({"name": "RandomInvert", "p": 1}))(given)
    assert torch.equal(inverted, 255 - pixels)
    chain = settings(
        {"name": "RandomInvert", "p": 1}, {"name": "RandomSolarize", "p": 1, "threshold": 100}
    )
    expected = torch.where(255 - pixels >= 100, pixels, 255 - pixels)
    assert torch.equal(Augment(chain)(given), expected)
    never = settings(
        {"name": "GaussianBlur", "kernel_size": 5, "p": 0}, {"name": "RandomInvert", "p": 0}
    )
    assert torch.equal(Augment(never)(given), pixels)
    grey = Augment(settings({"name": "Grayscale", "num_output_channels": 3}))(given)
    weights = torch.tensor([0.2989, 0.587, 0.114])[None, :, None, None]
    assert (grey - (pixels * weights).sum(1, keepdim=True)).abs().max() <= 1


def test_frames_have_draws_of_their_own_and_triplets_one():
    given = batch(5, clips=True)
    given.images[:] = 100
    torch.manual_seed(0)
    augment = Augment(settings({"name": "ColorJitter", "brightness": 0.5}))
    levels = augment(given).amax((1, 2, 3)).view(3, 5)
    assert torch.equal(levels[0], levels[1])
    assert torch.equal(levels[0], levels[2])
    assert len(levels[0].unique()) == 5


@pytest.mark.parametrize("name", ["RandomResizedCrop", "RandomHorizontalFlip", "CutMix", "Blur"])
def test_transforms_that_move_pixels_are_refused(name):
    with pytest.raises(ValidationError, match=f"'{name}' is none of .*view moves them all"):
        settings(name)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "GaussianBlur"}, r"train.augment: GaussianBlur\(\): .*kernel_size"),
        ({"name": "ColorJitter", "brightnes": 1}, r"ColorJitter\(brightnes=1\): .*unexpected"),
        ({"name": "ColorJitter", "hue": 2}, r"ColorJitter\(hue=2\): "),
        ({"name": "Grayscale"}, r"Grayscale\(\): it makes 1 channels of 3"),
        ({"name": "Grayscale", "num_output_channels": 3, "p": 2}, r"Grayscale.*\[0.0, 1.0\]"),
    ],
)
def test_arguments_that_torchvision_does_not_take_are_explained(section, message):
    with pytest.raises(ConfigError, match=message):
        Augment(settings(section))


def test_a_run_with_transforms_resumes_and_is_not_the_run_without(make_job):
    options = {"steps": 4, "log_every": 1, "checkpoint_every": 2, "accumulate": 2}
    augment = {"augment": ["RandomPhotometricDistort", {"name": "GaussianNoise", "sigma": 0.2}]}

    def losses(name, seed, stop=None, **more):
        def halt(progress):
            if progress.step == stop:
                raise KeyboardInterrupt

        job = make_job(name, seed=seed, on_step=halt, **options, **more)
        if stop is None:
            train(job)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(job)
        return [line["loss"] for line in read_metrics(job.settings.path) if "loss" in line]

    whole = losses("whole", 0, **augment)
    losses("parts", 0, stop=2, **augment)
    assert losses("parts", 1, **augment) == whole
    assert losses("plain", 0) != whole
