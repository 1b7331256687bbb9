"""A run's folder: which run it belongs to, what it holds, and how files get into it whole.

config.json         the resolved run file
fingerprints.json   fingerprint of every artifact set that was read
metrics.jsonl       one line for the first step and each `log_every`, one for each validation
events.out.*        the same for TensorBoard
last.pt, best.pt    checkpoints
model.safetensors   the network to use: averaged if there is an average, best if validated
result.json         there once the run has finished
.lock               held by the process that trains here
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import CacheMismatch, CacheUnwritable, ConfigError
from stillroom.storage_specs.fingerprint import ABSENT, differences, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from stillroom.storage_specs.fingerprint import Difference

CONFIG = "config.json"
FINGERPRINTS = "fingerprints.json"
METRICS = "metrics.jsonl"
LAST = "last.pt"
BEST = "best.pt"
MODEL = "model.safetensors"
RESULT = "result.json"
LOCK = ".lock"


@contextmanager
def alone(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes from training in a run's folder; a process that dies lets go of it.

    Args:
        patience: seconds to wait for another that trains there

    Raises:
        ConfigError: another process trains there.
        CacheUnwritable: there can be no such folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CacheUnwritable(
            f"run folder {folder}: cannot be written ({error.strerror or error}); make it writable "
            "or give train.path another folder"
        ) from error
    try:
        if not _locked(descriptor, patience):
            raise ConfigError(
                f"run folder {folder}: another process is training there; wait for it, or give "
                "train.path another folder"
            )
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, patience: float) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.1)
        else:
            return True


def is_begun(folder: Path) -> bool:
    """Tell whether a run has left something there that would be lost: a checkpoint or a model."""
    return any((folder / name).exists() for name in (LAST, BEST, MODEL, RESULT))


def claim(
    folder: Path,
    config: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    may_differ: tuple[str, ...] = (),
) -> None:
    """Take the folder for this run, or find that it is this run's.

    A run that failed before its first checkpoint has no claim: what made it fail is to be mended.

    Args:
        may_differ: dotted fields or sections of the config that may have changed since

    Raises:
        ConfigError: the folder holds a run of another config.
        CacheMismatch: it holds a run of this config that read another cache.
    """
    mine = plain(dict(config))
    begun = is_begun(folder)
    theirs = read_json(folder / CONFIG) if begun else None
    if theirs is not None:
        found = changes(theirs, mine, may_differ)
        if found:
            listing = "\n".join(f"  {one}" for one in found).replace("   cache ", "   folder ")
            raise ConfigError(
                f"run folder {folder} holds a run of another config\n{listing}\n  give train.path "
                "another folder, remove this one, or set these fields back to resume it"
                + _about_length(folder, [one.field for one in found])
            )
    known = read_json(folder / FINGERPRINTS) if begun else None
    changed = [] if known is None else differences(known, dict(fingerprints))
    if changed:
        listing = "\n".join(f"  {one}" for one in changed).replace("   cache ", "   folder ")
        raise CacheMismatch(
            f"run folder {folder} holds a run that read other artifacts\n{listing}\n  give "
            "train.path another folder, or point cache.path at the cache it was begun from"
        )
    write_json(folder / FINGERPRINTS, dict(fingerprints))
    write_json(folder / CONFIG, mine)


def _about_length(folder: Path, fields: Sequence[str]) -> str:
    """Say how training goes on where it was to be longer or shorter than it began."""
    if not {"train.steps", "train.epochs"} & set(fields):
        return ""
    return (
        "\n  its learning rate or a term's strength follows the number of steps; to go on from its "
        f'weights, give train.path another folder and student.weights = "{folder / MODEL}"; a '
        'run with schedule = "constant" or "milestones" may change its length'
    )


def changes(theirs: Any, mine: Any, may_differ: tuple[str, ...]) -> list[Difference]:
    """Return the fields in which two configs differ; `may_differ` as for `claim`.

    A key that an older version did not know, and that is not set, is none.
    """
    return [
        one
        for one in differences(theirs, mine)
        if (one.cache, one.run) != (ABSENT, None)
        and not any(one.field == f or one.field.startswith((f"{f}.", f"{f}[")) for f in may_differ)
    ]


def paths(folder: Path) -> dict[str, Path]:
    """Return what is there of "model", "last", "best", "metrics", "config", "fingerprints"."""
    names = {
        "model": MODEL,
        "last": LAST,
        "best": BEST,
        "metrics": METRICS,
        "config": CONFIG,
        "fingerprints": FINGERPRINTS,
    }
    return {key: folder / name for key, name in names.items() if (folder / name).exists()}


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, None where there is no file.

    Raises:
        ConfigError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error}); give train.path another folder, or remove this one"
        ) from error


def write_json(path: Path, document: Any) -> None:
    """Put a JSON document at `path`, whole."""
    write_whole(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Put bytes at `path` in one step that survives a crash; what was there stays until then.

    Raises:
        CacheUnwritable: no space or no permission; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CacheUnwritable(
            f"{path}: cannot be written ({error.strerror or error}); free some space or make the "
            "folder writable, and run the same command again: it keeps what is whole"
        ) from error
