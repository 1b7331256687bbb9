"""Two processes at the same batch are one: every term, with frames of which little is shown."""

from __future__ import annotations

import pytest
import several_ranks
import torch

from stillroom.stages.train.losses.table import LOSSES

RANKS = 2
EVERY_TERM = """
import sys
import torch
from several_ranks import meet, steps_of

with meet() as folder:
    names = sys.argv[4:]
    found = {(name, parts): steps_of(name, parts) for name in names for parts in (1, 2)}
    torch.save(found, folder / f"rank{sys.argv[2]}.pt")
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By rank, term and parts of a step."""
    folder = tmp_path_factory.mktemp("ranks")
    assert several_ranks.start(EVERY_TERM, folder, RANKS, *LOSSES) == [0] * RANKS
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_have_the_losses_of_one_process(found, name, parts):
    alone = several_ranks.steps_of(name, parts)
    first, second = (rank[name, parts] for rank in found)
    assert first["steps"] == second["steps"]
    for one, other in zip(alone["steps"], first["steps"], strict=True):
        slopes = {key for key in one if key.endswith("gradient")}
        assert {k: other[k] for k in slopes} == pytest.approx({k: one[k] for k in slopes}, rel=5e-3)
        assert other == pytest.approx({**one, **{k: other[k] for k in slopes}}, rel=1e-4, abs=1e-7)
    for key, value in alone["state"].items():
        assert first["state"][key].equal(second["state"][key]), key
        torch.testing.assert_close(first["state"][key], value, rtol=1e-2, atol=2e-3, msg=key)
