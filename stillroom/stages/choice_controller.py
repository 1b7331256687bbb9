"""A controller that learns which choices score well: an LSTM trained by PPO.

So Y. Liu, thesis, Adelaide 2021, section 6.3.4, searches auxiliary modules: "An LSTM-based
controller will predict a sequence of operations and their locations", one softmax a choice, and
the "gradient for the controller to maximize the expected reward is estimated with PPO". PPO is
Schulman et al., "Proximal Policy Optimization Algorithms", 2017 (arXiv:1707.06347), equation 7,
with the entropy bonus of equation 9; a moving average of the rewards stands in the place of its
value function. The thesis gives none of the numbers below: they were chosen on rewards that are
functions of the choices.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

WIDTH = 32  # of the LSTM's state and of what it reads
LEARNING_RATE = 0.01
STEPS = 5  # of Adam, a round
CLIP = 0.2  # of the ratio of probabilities
ENTROPY = 0.1  # weight, beside advantages in standard deviations of the rewards
DECAY = 0.8  # of the moving averages, a round


class ChoiceController(nn.Module):
    """Draws sequences of choices, and learns from their rewards.

    Before it has learnt, all choices are as likely. All of it is in float64: what it draws is to be
    the same wherever the same rewards are told again.

    Args:
        sizes: how many there are to choose from, choice by choice
        seed: of the first weights
    """

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        super().__init__()
        self._first = list(accumulate(sizes, initial=1))  # row of each choice's number 0
        with torch.random.fork_rng(devices=[]):  # whose numbers are not these weights'
            self.embed = nn.Embedding(1 + sum(sizes), WIDTH)
            self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self.heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in sizes)
        self.double()
        generator = torch.Generator().manual_seed(seed)
        for parameter in (*self.embed.parameters(), *self.lstm.parameters()):
            nn.init.uniform_(parameter, -0.3, 0.3, generator=generator)
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)
        self._adam = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)
        self._averages: tuple[float, float] | None = None  # of rewards and of their squares

    @torch.no_grad()
    def choose(self, shares: Sequence[Sequence[float]]) -> list[tuple[int, ...]]:
        """Return sequences of choices, by number.

        Args:
            shares: (sequences, choices), 0 <= share < 1: the choice is the one below which this
                share of the probability lies
        """
        chosen: list[tuple[int, ...]] = [() for _ in shares]
        for place in range(len(self.heads)):
            likely = self._logs(chosen)[place].exp().cumsum(1)
            asked = torch.tensor([[one[place]] for one in shares], dtype=likely.dtype)
            found = (likely[:, :-1] <= asked).sum(1).tolist()  # the last one takes what is left
            chosen = [(*before, number) for before, number in zip(chosen, found, strict=True)]
        return chosen

    def learn(self, chosen: Sequence[tuple[int, ...]], rewards: Sequence[float]) -> None:
        """Make what was rewarded above the average more likely, and the rest less.

        Args:
            chosen: a round of sequences, drawn since it learnt last
            rewards: of each
        """
        advantages = torch.tensor(self._advantages(rewards), dtype=torch.float64)[:, None]
        before = self._picked(chosen)[0].detach()
        for _ in range(STEPS):
            logs, entropy = self._picked(chosen)
            ratio = (logs - before).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
            self._adam.zero_grad()
            (-gain - ENTROPY * entropy).backward()  # type: ignore[no-untyped-call]
            self._adam.step()

    def _advantages(self, rewards: Sequence[float]) -> list[float]:
        """Return rewards over their moving average, in moving standard deviations."""
        now = [math.fsum(one**power for one in rewards) / len(rewards) for power in (1, 2)]
        old = now if self._averages is None else self._averages
        mean, square = (DECAY * a + (1 - DECAY) * b for a, b in zip(old, now, strict=True))
        self._averages = mean, square
        deviation = math.sqrt(max(square - mean**2, 0.0))
        return [(one - mean) / deviation if deviation > 1e-9 else 0.0 for one in rewards]

    def _picked(self, chosen: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Return log probabilities of what was chosen (sequences, choices), and mean entropy."""
        logs = self._logs(chosen)
        numbers = torch.tensor(chosen)
        picked = [one.gather(1, numbers[:, i : i + 1]) for i, one in enumerate(logs)]
        entropy = torch.stack([-(one.exp() * one).sum(1).mean() for one in logs]).mean()
        return torch.cat(picked, 1), entropy

    def _logs(self, chosen: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Return log probabilities (sequences, size) of each choice made so far, and the next."""
        rows = [[0, *map(sum, zip(self._first, one, strict=False))] for one in chosen]
        states, _ = self.lstm(self.embed(torch.tensor(rows)))
        return [
            head(states[:, place]).log_softmax(1)
            for place, head in enumerate(self.heads)
            if place < states.shape[1]
        ]
