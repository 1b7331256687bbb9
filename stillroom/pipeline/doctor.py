"""`stillroom doctor`: whether this machine has what stillroom needs, in words."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillroom.storage_specs.errors import ConfigError, StillroomError
from stillroom.storage_specs.extras import EXTRAS, how_to_install
from stillroom.storage_specs.files.object_store import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillroom.pipeline.run_file.sections import RunConfig
    from stillroom.stages.device_facts import DeviceFacts

LITTLE = 5_000_000_000  # bytes of a disk
NEEDS = {
    "smp": "segmentation_models_pytorch",
    "torchvision": "torchvision",
    "timm": "timm",
    "hf": "transformers",
    "onnx": "onnxruntime",
}  # packages, by the kind of a model
NAMED = ("architecture", "encoder", "target", "path", "weights", "encoder_weights")  # keys of it
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: "ok"; "note" where something that not everybody needs is missing; "fault" where
            stillroom will not work
        what: what was found, and what to do about it
    """

    area: str
    state: Literal["ok", "note", "fault"]
    what: str


def examine(run: RunConfig | None = None, address: str | None = None) -> list[Finding]:
    """Look at packages, devices, disks and Ray; nothing is left behind.

    Args:
        run: whose folders, files and devices are looked at as well
        address: of a Ray cluster that is asked what it has
    """
    found = [*_system(), *_packages()]
    missing = {one.what.partition(" ")[0] for one in found if one.area == "packages"}
    if "torch" not in missing:
        found += _devices()
    found += _folder("temporary files", Path(tempfile.gettempdir()))
    if "ray" not in missing:
        found += _ray(address)
    if run is not None:
        found += _run(run)
    return found


def as_documents(found: list[Finding]) -> list[dict[str, Any]]:
    """Return findings as JSON."""
    return [asdict(one) for one in found]


def _system() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    text = f"Python {version} on {sys.platform}, {_usable_cores()} cores"
    if os.name == "posix":
        yield Finding("system", "ok", text)
    else:
        yield Finding(
            "system", "fault", f"{text}: files are locked as POSIX does; use Linux, macOS or WSL"
        )


def _usable_cores() -> int:
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _packages() -> Iterator[Finding]:
    """One finding for all that are there, and one for each that is not, beginning with its name."""
    there = []
    for package in EXTRAS:
        name = DISTRIBUTIONS.get(package, package.replace("_", "-"))
        try:
            there.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("packages", "note", f"{package} is missing; {how_to_install(package)}")
    yield Finding("packages", "ok", ", ".join(there) or "those of the contract alone")


def _devices() -> Iterator[Finding]:
    from stillroom.stages.device_facts import device_facts

    facts, driver = device_facts(), _driver()
    if facts.torchvision:
        yield Finding(
            "devices",
            "note",
            f"torchvision does not fit this torch ({facts.torchvision}); networks work, its "
            "operators do not: install both of one build",
        )
    for name, size in facts.gpus:
        yield Finding("devices", "ok", f"{name}, {size / 2**30:.0f} GiB; {driver or 'no driver'}")
    if not facts.gpus:
        yield _without_gpu(facts, driver)


def _without_gpu(facts: DeviceFacts, driver: str) -> Finding:
    cpu = f"the CPU, {facts.threads} thread{'s' * (facts.threads > 1)}"
    if driver and not facts.built_for:
        why = f"{driver} is there, but this torch was built without CUDA; install one with it"
    elif driver:
        why = f"torch for CUDA {facts.built_for} sees no GPU behind {driver}"
    elif facts.built_for:
        why = "no GPU is seen, and no nvidia-smi tells of a driver"
    else:
        return Finding("devices", "ok", f"{cpu}; this torch was built without CUDA")
    return Finding("devices", "note", f"{cpu}: {why}")


def _driver() -> str:
    """What nvidia-smi says of the driver; "" where there is none."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        if told.stdout.strip():
            return f"driver {told.stdout.split()[0]}"
    return ""


def _folder(what: str, folder: Path) -> Iterator[Finding]:
    """Whether files can be made in a folder, or where it would be made, and how many."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = f"{folder}: no file can be made there ({error.strerror}); choose another place"
        yield Finding(what, "fault", reason)
        return
    free = shutil.disk_usage(there).free
    text = f"{folder.absolute()}: {free / 1e9:.0f} GB free"
    yield Finding(what, "note" if free < LITTLE else "ok", text)


def _ray(address: str | None) -> Iterator[Finding]:
    if address is None:
        yield Finding("ray", "ok", "installed; --address asks a cluster what it has")
        return
    from stillroom.pipeline.cluster.connection import connected

    try:
        with connected(1, address) as ray:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            has = ray.cluster_resources()
    except StillroomError as error:
        yield Finding("ray", "fault", re.sub(r"\s+", " ", str(error)))
        return
    cpus, gpus = has.get("CPU", 0), has.get("GPU", 0)
    yield Finding("ray", "ok", f"{address}: {len(nodes)} nodes, {cpus:g} CPUs, {gpus:g} GPUs")


def _run(run: RunConfig) -> Iterator[Finding]:
    cache = place_of(run.cache.path)
    if isinstance(cache, Path):
        yield from _folder("cache", cache)
    else:
        yield Finding("cache", "ok", f"{cache}: an object store; `cache build` tries it")
    if run.train is not None:
        yield from _folder("run", run.train.path)
    for name, config in run.sources.items():
        yield _tried(f"source {name}", partial(_count, config))
    models: dict[str, Any] = {f"teacher {name}": one for name, one in run.teachers.items()}
    models |= {f"flow {name}": one for name, one in run.flows.items()}
    models |= {"student": run.student} if run.student is not None else {}
    for area, model in models.items():
        yield _tried(area, partial(_model, model))


def _count(config: Any) -> str:
    from stillroom.stages.sources.open import open_source

    return f"{len(open_source(config))} frames"


def _tried(area: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(area, "ok", look())
    except StillroomError as error:
        return Finding(area, "fault", re.sub(r"\s+", " ", str(error)))


def _model(model: Any) -> str:
    """Read the files that the section of a teacher, a flow model or a student names; list them.

    Raises:
        StillroomError: one cannot be read, or a package or a function that it needs is not there.
    """
    from stillroom.stages.models.model_settings import ModelSettings
    from stillroom.stages.models.python_target import find_target
    from stillroom.stages.models.weights import weights_sha256

    package = NEEDS.get(model.kind)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(f"kind {model.kind} needs {package}; {how_to_install(package)}")
    if isinstance(model, ModelSettings):
        model.content()  # hashes of all of its files
    named = {key: value for key in NAMED if (value := getattr(model, key, None)) is not None}
    if "target" in named:
        find_target(named["target"])
    for key in named.keys() & {"weights", "encoder_weights"}:
        weights_sha256(named[key])
    named |= {key: each.absolute() for key, each in named.items() if isinstance(each, Path)}
    return ", ".join([f"kind {model.kind}", *(f"{key} {value}" for key, value in named.items())])
