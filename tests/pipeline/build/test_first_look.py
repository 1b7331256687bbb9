"""Teachers whose outputs cannot be cached are refused before anything is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stillroom.cli import main
from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache

NETWORKS = """
import torch
from tiny_networks import Tiny
from torch import nn


class Changed(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.net, self.change = Tiny(9, 0), change

    def forward(self, images):
        output = self.net(images)
        return {**output, "logits": self.change(output["logits"])}


def dropout_in_training_mode():
    net = Changed(nn.Dropout2d(0.5))
    return lambda images: net(images)


def functional_dropout():
    return Changed(lambda z: nn.functional.dropout(z, 0.5))


def batch_norm_in_training_mode():
    net = Changed(nn.BatchNorm2d(9))
    return lambda images: net(images)


def probabilities():
    return Changed(lambda z: z.softmax(1))


def log_probabilities():
    return Changed(lambda z: z.log_softmax(1))


def one_channel():
    return Changed(lambda z: z[:, :1])


def nothing_finite():
    return Changed(lambda z: z * float("nan"))


def honest():
    return Changed(lambda z: z)


def one_at_a_time():
    net = Changed(lambda z: z)

    def run(images):
        assert len(images) == 1
        return net(images)

    return run


def first_of_the_batch():
    return Changed(lambda z: z[:1].expand_as(z))
"""


@pytest.fixture
def networks(run_file: Path) -> Path:
    Path("odd_networks.py").write_text(NETWORKS)
    return run_file


def as_teacher(name: str) -> list[str]:
    return [f'teachers.tiny.target="odd_networks:{name}"']


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dropout_in_training_mode", "logits of one frame differ between two calls; put every"),
        ("functional_dropout", "logits of one frame differ between two calls; put every"),
        (
            "batch_norm_in_training_mode",
            "logits of a frame depend on the other frames of",
        ),
        ("first_of_the_batch", "logits of a frame depend on the other frames of"),
        ("one_at_a_time", "fails on 2 drawn frames at the canvas' size (AssertionError"),
        ("probabilities", "its logits are probabilities"),
        ("nothing_finite", "hold no finite value"),
    ],
)
def test_outputs_that_cannot_be_trusted_are_refused_before_a_build(
    networks: Path, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(load_run(networks, as_teacher(name)))
    assert not Path("street.cache").exists() or not Cache.open("street.cache").sets()
    arguments = [argument for value in as_teacher(name) for argument in ("--set", value)]
    result = CliRunner().invoke(main, ["cache", "build", str(networks), *arguments])
    assert result.exit_code == 2
    assert message.partition(";")[0] in result.output.replace("\n", " ")


def test_a_single_channel_is_refused_with_how_to_give_two(networks: Path) -> None:
    one = [*as_teacher("one_channel"), "teachers.tiny.classes=1"]
    with pytest.raises(ConfigError, match=r"one channel.*zeros_like"):
        build(load_run(networks, one))


@pytest.mark.parametrize("name", ["honest", "log_probabilities"])
def test_logits_and_log_probabilities_are_cached(networks: Path, name: str) -> None:
    build(load_run(networks, as_teacher(name)))
    logits = Cache.open("street.cache").artifact_set("street", "tiny").read("logits", 0)
    assert np.ptp(logits) > 0


def test_a_network_of_one_frame_at_a_time_is_never_given_two(networks: Path) -> None:
    build(load_run(networks, [*as_teacher("one_at_a_time"), "cache.batch=1"]))


def test_a_build_of_features_alone_does_not_ask_for_logits(networks: Path) -> None:
    few = 'cache.artifacts=["features/penultimate"]'
    build(load_run(networks, [*as_teacher("probabilities"), few]))
