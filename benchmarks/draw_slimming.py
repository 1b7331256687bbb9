"""How large the scales of batch normalisation are, with the term network_slimming and without it.

    python benchmarks/draw_slimming.py runs/plain runs/slim

Of runs that have finished: the scale below which each share of a student's channels lies. Draws
docs/losses/network_slimming.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from stillroom.pipeline.open_model import open_trained
from stillroom.stages.pictures.curve_chart import Panel, curve_chart

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "losses" / "network_slimming.png"
POINTS = 100


def scales(run: Path) -> torch.Tensor:
    """(N,): of all channels of a run's student, the smallest first."""
    norms = (one for one in open_trained(run).student.modules() if isinstance(one, _BatchNorm))
    return torch.cat([one.weight.detach().abs() for one in norms]).sort().values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plain", type=Path)
    parser.add_argument("slim", type=Path)
    given = parser.parse_args()
    shares = [100 * (place + 0.5) / POINTS for place in range(POINTS)]
    series = {}
    for name, run in (("cross entropy", given.plain), ("with network_slimming", given.slim)):
        found = scales(run)
        places = (torch.tensor(shares) / 100 * len(found)).long()
        series[name] = (shares, found[places].tolist())
    panel = Panel("|scale| of a channel", series, along="channels with a smaller one, %")
    print(curve_chart(PICTURE, [panel], title="Batch normalisation"))


if __name__ == "__main__":
    main()
