"""Fixtures that every test may ask for.

shared_data   the folder of real CamVid, COCO and weights; skips with a reason where it is absent
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: tests run side by side, and a thread each is fastest for all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(os.environ.get("STILLROOM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set STILLROOM_SHARED_DATA to its folder")
    return folder
