"""Checkpoints: tensors and plain types, never pickled code, always whole."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from stillroom.stages.across_ranks import alone
from stillroom.stages.models.safetensors_file import pack
from stillroom.stages.train.augment import Augment
from stillroom.stages.train.ema import Ema
from stillroom.stages.train.metrics import Window
from stillroom.stages.train.optimiser import build_optimiser
from stillroom.stages.train.run_folder import LAST, write_whole
from stillroom.stages.train.synchronised import synchronise
from stillroom.storage_specs.errors import WeightsError
from stillroom.storage_specs.fingerprint import plain
from stillroom.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stillroom.stages.models.student import Student
    from stillroom.stages.train.objective import Objective
    from stillroom.stages.train.settings import TrainConfig

FORMAT = 3  # 2: with the states of terms; 3: sealed
SEAL = b"\nstillroom sha256 "  # then 64 digits end the file; torch reads past them
DIGITS = 64


@dataclass
class Learner:
    """All that changes from step to step.

    Attributes:
        terms: what the objective's terms train or remember
        augment: what the student sees of a batch, where it is not its images
        step: steps done; skipped: those among them that the loss scale left out
        window: sums since the last line of metrics; last: the means of that line
        best_score, best_step: of the best validation so far
        seconds, wait_seconds: of training, validation left out, and waiting for data in it
    """

    student: Student
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None
    terms: torch.nn.Module
    augment: Augment | None = None
    step: int = 0
    skipped: int = 0
    window: Window = field(default_factory=Window)
    last: dict[str, float] = field(default_factory=dict)
    best_score: float | None = None
    best_step: int | None = None
    seconds: float = 0.0
    wait_seconds: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next(self.student.parameters()).device

    @property
    def updates(self) -> int:
        """How often the weights were moved, which the schedule and the average go by."""
        return self.step - self.skipped

    @property
    def shown(self) -> Student:
        """The student to validate and export: the average, where there is one."""
        return self.student if self.ema is None else self.ema.student

    def state(self) -> dict[str, Any]:
        """Return everything `restore` needs."""
        return {
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.student.state_dict(),
            "terms": self.terms.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "window": self.window.state(),
            "last": self.last,
            "best_score": self.best_score,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "wait_seconds": self.wait_seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state` was taken from."""
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.student.load_state_dict(state["ema"])
        self.terms.load_state_dict(state["terms"])
        self.window = Window(**state["window"])
        self.last = dict(state["last"])
        self.step, self.skipped = state["step"], state.get("skipped", 0)
        self.best_score, self.best_step = state["best_score"], state["best_step"]
        self.seconds, self.wait_seconds = state["seconds"], state["wait_seconds"]


def new_learner(
    student: Student, objective: Objective, settings: TrainConfig, device: torch.device
) -> Learner:
    """Set a student and its objective up for their first step, on the device."""
    student.freeze_norm(settings.freeze_norm)
    if settings.sync_batch_norm is not False and not alone():
        synchronise(student)
        synchronise(objective.states)
    student.to(device)
    if device.type == "cuda":  # a CPU brings weights into its own order anyway
        student.to(memory_format=student.normalise.order)  # type: ignore[call-overload]
    objective.states.to(device).train()
    learner = Learner(
        student=student,
        optimiser=build_optimiser(student, settings.optimiser, objective.trained()),
        scaler=torch.amp.GradScaler(
            device.type, enabled=amp_type(settings, device) == torch.float16
        ),
        ema=None if settings.ema is None else Ema(student, settings.ema),
        terms=objective.states,
        augment=Augment(settings.augment) if settings.augment else None,
    )
    if settings.compile:
        student.compile()
    return learner


def amp_type(settings: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the type that the student computes in, None for float32: always on a CPU."""
    if device.type != "cuda" or settings.amp == "off":
        return None
    return torch.bfloat16 if settings.amp == "bfloat16" else torch.float16


def save_last(path: Path, learner: Learner, about: Mapping[str, Any]) -> None:
    """Write what a resumed run continues from.

    Args:
        about: plain types to keep beside it: config, fingerprints
    """
    _save(path, {"format": FORMAT, **plain(dict(about)), **learner.state()})


def save_best(
    path: Path, learner: Learner, scores: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write the student that validated best: the average, where there is one."""
    document = {
        "format": FORMAT,
        **plain(dict(about)),
        "student": learner.shown.state_dict(),
        "step": learner.step,
        "scores": {name: value for name, value in scores.items() if isinstance(value, int | float)},
    }
    _save(path, document)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read last.pt or best.pt onto the CPU; None where there is none.

    Raises:
        WeightsError: truncated, damaged, not a checkpoint, or of another format.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    sealed = _unsealed(content, path)
    try:
        if sealed is None:  # of an earlier version: the archive knows the sums of its members
            _demand_sound_members(content)
        found = torch.load(io.BytesIO(sealed or content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever torch makes of bytes that are none of its own
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise _unreadable(path, reason) from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != (2 if sealed is None else FORMAT):
        raise WeightsError(
            f"checkpoint {path}: expected format {FORMAT}, found {version}; it is damaged, or of "
            "another version of stillroom: remove it, or train with that version"
        )
    return dict(found)


def export(path: Path, student: Student, metadata: Mapping[str, Any]) -> None:
    """Write the student's network as safetensors; a teacher of kind "smp" loads it.

    Args:
        metadata: each value is kept as JSON text, beside the version of stillroom
    """
    about = {name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}
    about |= {"format": "pt", "stillroom": __version__}
    write_whole(path, pack(student.network.state_dict(), about))


def _save(path: Path, document: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(document, buffer)
    content = buffer.getvalue()
    write_whole(path, content + SEAL + hashlib.sha256(content).hexdigest().encode())


def _unsealed(content: bytes, path: Path) -> bytes | None:
    """What the seal at the end of a checkpoint vouches for; None where there is no seal.

    Raises:
        WeightsError: the bytes are not those that were written.
    """
    inner, seal = content[: -DIGITS - len(SEAL)], content[-DIGITS - len(SEAL) :]
    if not seal.startswith(SEAL):
        return None
    if SEAL + hashlib.sha256(inner).hexdigest().encode() != seal:
        raise _unreadable(path, "its bytes are not those that were written: a damaged disk or copy")
    return inner


def _demand_sound_members(content: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"its member {damaged} is damaged")


def _unreadable(path: Path, reason: str) -> WeightsError:
    if path.name == LAST:
        remedy = "remove it to begin the run again, or copy it again from where it is whole"
    else:
        remedy = "copy it again, or remove it: the run exports the student of its last step"
    return WeightsError(f"checkpoint {path}: cannot be read ({reason}); {remedy}")
