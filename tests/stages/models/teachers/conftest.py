"""Fixtures of the tests of teachers.

model_folder  a SegFormer's folder as save_pretrained writes it, of 5 classes
model         a copy of it that a test may change
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from tiny_segformer import tiny_segformer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segformer")
    torch.manual_seed(0)
    tiny_segformer(5).save_pretrained(folder)
    return folder


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
