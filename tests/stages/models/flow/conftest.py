"""Fixtures of the tests of flow models.

texture       frames of a random, smooth texture, cut from a larger one at an offset
read_image      a picture or label map as an array
flownet2      the whole FlowNet2 with random numbers, built once a module
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stillroom.stages.models.flow.flow_network import without_weights
from stillroom.stages.models.flow.flownet2.cascade import FlowNet2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def texture() -> Callable[[int, int], NDArray[np.uint8]]:
    """texture(x, y): the frame whose top left corner is that point of the texture."""
    noise = np.random.default_rng(5).integers(0, 256, (240, 320, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0).astype(np.float32)
    whole = ((smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255).astype(np.uint8)

    def cut(x: int, y: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(whole[40 + y : 168 + y, 40 + x : 232 + x])  # (128, 192, 3)

    return cut


@pytest.fixture
def read_image() -> Callable[[Path], NDArray[np.uint8]]:
    """Read a picture as (H, W, 3), a label map as (H, W)."""

    def read(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            array: NDArray[np.uint8] = np.array(image)
        return array

    return read


@pytest.fixture(scope="module")
def flownet2() -> Iterator[FlowNet2]:
    network = without_weights(FlowNet2).eval().requires_grad_(False)
    noise = torch.rand(12_000_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    place = 0
    for parameter in network.parameters():
        place = (place + 104_729) % 2_000_000
        drawn = noise[place : place + parameter.numel()].view_as(parameter)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.copy_(drawn).mul_((3 / fan_in) ** 0.5)
    assert isinstance(network, FlowNet2)
    yield network
    del network
