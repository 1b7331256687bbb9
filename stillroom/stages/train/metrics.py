"""Metrics of a run: one JSON object a line, and the same for TensorBoard."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from stillroom.stages.train.run_folder import METRICS, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass
class Window:
    """Sums since the last line; in checkpoints, so that a resumed run writes the same lines."""

    count: int = 0
    loss: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)

    def add(self, loss: float, terms: Mapping[str, float]) -> None:
        """Take in one step."""
        self.count += 1
        self.loss += loss
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value

    def mean(self) -> dict[str, float]:
        """Return "loss" and every term, mean over the steps taken in."""
        sums = {"loss": self.loss, **self.terms}
        return {name: value / self.count for name, value in sums.items()} if self.count else {}

    def state(self) -> dict[str, Any]:
        """Return plain types; `Window(**state)` is the window again."""
        return asdict(self)


class Metrics:
    """Writes the lines; use it as a context.

    Args:
        step: the checkpoint's; what the folder holds of later steps is dropped, for they come again
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_whole(folder / METRICS, text.encode())
        self._file = (folder / METRICS).open("a", encoding="utf8")
        self._board = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def steps(
        self, step: int, epoch: float, lr: float, means: Mapping[str, float], seconds: float
    ) -> None:
        """Write one line of training: means since the line before."""
        terms = {name: value for name, value in means.items() if name != "loss"}
        line = {"step": step, "epoch": epoch, "lr": lr, "loss": means["loss"], "terms": terms}
        self._write({**line, "seconds": round(seconds, 3)})
        scalars = {f"terms/{name}": value for name, value in terms.items()}
        self._plot(step, {"train/loss": means["loss"], "train/lr": lr, **scalars})

    def values(self, kind: str, step: int, epoch: float, values: Mapping[str, Any]) -> None:
        """Write one line of values at a step.

        Args:
            kind: "gradients", 2-norms of the terms' own gradients, weighted as in the loss;
                "watched", of the terms' states; or "scores", of a validation
        """
        self._write({"step": step, "epoch": epoch, kind: _finite(dict(values))})
        prefix = "validate" if kind == "scores" else kind
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._plot(step, {f"{prefix}/{name}": value for name, value in numbers.items()})

    def flush(self) -> None:
        """Flush both files."""
        self._file.flush()
        self._board.flush()

    def __enter__(self) -> Metrics:
        """Return the writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _plot(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)


class Unwritten(Metrics):
    """Metrics of a rank that does not write."""

    def __init__(self) -> None:
        pass

    def flush(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def _write(self, line: Mapping[str, Any]) -> None:
        pass

    def _plot(self, step: int, scalars: Mapping[str, float]) -> None:
        pass


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run so far; one that a crash cut off is left out."""
    try:
        text = (folder / METRICS).read_text(encoding="utf8")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _finite(value: Any) -> Any:
    """JSON has no NaN, and the score of a class that is absent is one."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
