"""Batch normalisation of two ranks with unequally many frames is that of the whole batch."""

from __future__ import annotations

import copy

import pytest
import several_ranks
import torch
from torch import nn

from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.train.synchronised import SyncBatchNorm, SyncBatchNormAct, synchronise
from stillroom.storage_specs.errors import ConfigError

RANKS, FRAMES, STEPS = 2, 5, 3
SCRIPT = """
import torch
from several_ranks import meet
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.stages.across_ranks import average_gradients, rank, share, world_size
from stillroom.stages.train.synchronised import synchronise

import_torchvision()  # for timm's layers
with meet() as folder:
    network, batches, wanted = torch.load(folder / "given.pt", weights_only=False)
    synchronise(network)
    own, slopes = share(5, rank(), world_size()), []
    for batch in batches:
        part = batch[own.start : own.stop].requires_grad_()
        out = network(part)
        (world_size() * (out * wanted[own.start : own.stop]).sum()).backward()
        slopes.append(part.grad)
    average_gradients(network.parameters())
    found = {"out": out.detach(), "slopes": slopes, "state": network.state_dict()}
    found["gradients"] = [p.grad for p in network.parameters()]
    torch.save(found, folder / f"rank{rank()}.pt")
"""


def acting(channels):
    """timm's, which ends with an activation."""
    import_torchvision()
    from timm.layers import BatchNormAct2d

    return BatchNormAct2d(channels)


def networks():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    active = nn.Sequential(nn.Conv2d(2, 4, 3), acting(4), nn.Conv2d(4, 3, 1))
    cumulative = nn.Sequential(nn.BatchNorm2d(2, momentum=None, affine=False), nn.Conv2d(2, 3, 3))
    return {"plain": plain, "acting": active, "cumulative": cumulative}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "acting", "cumulative"])
def test_values_gradients_and_running_statistics_are_those_of_the_whole_batch(tmp_path, kind):
    network = networks()[kind]
    batches = [3 * torch.randn(FRAMES, 2, 6, 7) + step for step in range(STEPS)]
    wanted = torch.randn(FRAMES, 3, 4, 5)
    torch.save((network, batches, wanted), tmp_path / "given.pt")
    assert several_ranks.start(SCRIPT, tmp_path, RANKS) == [0] * RANKS
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(RANKS))
    slopes = []
    for batch in batches:
        batch.requires_grad_()
        out = network(batch)
        (out * wanted).sum().backward()
        slopes.append(batch.grad)
    torch.testing.assert_close(torch.cat([first["out"], second["out"]]), out.detach())
    for step, slope in enumerate(slopes):
        together = torch.cat([first["slopes"][step], second["slopes"][step]]) / RANKS
        torch.testing.assert_close(together, slope, rtol=1e-4, atol=1e-5)
    for each in (first, second):
        torch.testing.assert_close(each["state"], dict(network.state_dict()))
        for one, parameter in zip(each["gradients"], network.parameters(), strict=True):
            torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-4)


def test_alone_it_computes_what_it_was(tmp_path):
    for network in networks().values():
        before = copy.deepcopy(network)
        seen = []
        network[1].register_forward_hook(lambda *_, seen=seen: seen.append(1))
        synchronise(network)
        batch = torch.randn(4, 2, 6, 7)
        for _ in range(2):
            torch.testing.assert_close(network(batch), before(batch))
        torch.testing.assert_close(dict(network.state_dict()), dict(before.state_dict()))
        torch.testing.assert_close(network.eval()(batch), before.eval()(batch))
        assert seen  # hooks stay


def test_only_normalisation_over_the_batch_is_changed():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.GroupNorm(1, 2), acting(2))
    synchronise(network)
    assert [type(each) for each in network] == [SyncBatchNorm, nn.GroupNorm, SyncBatchNormAct]


def test_a_single_value_has_no_spread():
    network = nn.Sequential(nn.BatchNorm2d(2))
    synchronise(network)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 2, 1, 1))


def test_one_of_a_kind_of_its_own_is_refused():
    class Own(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input) + 1

    with pytest.raises(ConfigError, match=r"0\.1 is a Own.*train\.sync_batch_norm = false"):
        synchronise(nn.Sequential(nn.Sequential(nn.ReLU(), Own(2))))
