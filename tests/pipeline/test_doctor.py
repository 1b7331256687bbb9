from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from click.testing import CliRunner

from stillroom.cli import main
from stillroom.pipeline.doctor import Finding, examine
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages import device_facts as facts_module
from stillroom.stages.device_facts import DeviceFacts, device_facts

if TYPE_CHECKING:
    from pathlib import Path


def of(area: str, found: list[Finding]) -> list[Finding]:
    return [one for one in found if one.area == area]


def test_a_machine_that_runs_these_tests_has_no_fault(run_file: Path) -> None:
    before = sorted(run_file.parent.rglob("*"))
    found = examine(load_run(run_file))
    assert not [one for one in found if one.state == "fault"]
    python = ".".join(map(str, sys.version_info[:3]))
    assert of("system", found)[0].what.startswith(f"Python {python} on ")
    assert f"torch {importlib.metadata.version('torch')}" in of("packages", found)[-1].what
    assert of("source street", found)[0].what == "10 frames"
    assert of("teacher tiny", found)[0].what == "kind python, target tiny_networks:teacher"
    assert of("student", found)[0].what == "kind python, target tiny_networks:student"
    assert sorted(run_file.parent.rglob("*")) == before


def test_packages_that_are_missing_are_named_with_their_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without(name: str) -> str:
        if name in ("ray", "torch"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = examine()
    notes = [one.what for one in of("packages", found) if one.state == "note"]
    assert notes == [
        "torch is missing; run `pip install -e '.[train]'` in stillroom's own folder",
        "ray is missing; run `pip install -e '.[ray]'` in stillroom's own folder",
    ]
    assert not of("devices", found)
    assert not of("ray", found)


class Case(NamedTuple):
    built_for: str
    gpus: tuple[tuple[str, int], ...]
    driver: str
    state: str
    what: str


CASES = [
    Case("12.8", (("H200", 150 << 30),), "570.1", "ok", "H200, 150 GiB; driver 570.1"),
    Case("", (), "570.1", "note", "driver 570.1 is there, but this torch was built without CUDA"),
    Case("12.8", (), "570.1", "note", "torch for CUDA 12.8 sees no GPU behind driver 570.1"),
    Case("12.8", (), "", "note", "no GPU is seen, and no nvidia-smi tells of a driver"),
    Case("", (), "", "ok", "3 threads; this torch was built without CUDA"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what[:30])
def test_gpus_and_drivers_are_said_in_words(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = DeviceFacts(case.built_for, case.gpus, 3, "")
    monkeypatch.setattr(facts_module, "device_facts", lambda: facts)

    def smi(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        if not case.driver:
            raise FileNotFoundError("nvidia-smi")
        return subprocess.CompletedProcess([], 0, f"{case.driver}\n", "")

    monkeypatch.setattr(subprocess, "run", smi)
    (found,) = of("devices", examine())
    assert found.state == case.state
    assert case.what in found.what


def test_torch_is_asked() -> None:
    found = device_facts()
    assert found.threads >= 1
    assert isinstance(found.gpus, tuple)


def test_a_folder_below_a_file_is_a_fault(run_file: Path) -> None:
    (run_file.parent / "file").write_text("")
    (found,) = of("cache", examine(load_run(run_file, ["cache.path=file/a.cache"])))
    assert found.state == "fault"
    assert "file/a.cache: no file can be made there (Not a directory)" in found.what


def test_a_disk_that_is_nearly_full_is_noted(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type(shutil.disk_usage("/"))(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    (found,) = of("cache", examine(load_run(run_file)))
    assert found.state == "note"
    assert found.what.endswith("street.cache: 1 GB free")


def test_a_source_that_cannot_be_listed_is_a_fault_and_the_exit_code_says_so(
    run_file: Path,
) -> None:
    missing = 'sources.more={kind="images", root="nowhere"}'
    done = CliRunner().invoke(main, ["doctor", str(run_file), "--set", missing, "--json"])
    assert done.exit_code == 1
    (found,) = [one for one in json.loads(done.stdout)["findings"] if one["area"] == "source more"]
    assert found["state"] == "fault"
    assert "nowhere" in found["what"]
    text = CliRunner().invoke(main, ["doctor", str(run_file), "--set", missing])
    assert not [line for line in text.stdout.splitlines() if line != line.rstrip()]  # in a pipe
    assert text.exit_code == 1
    assert text.stdout.rstrip().endswith("1 fault")


@pytest.mark.parametrize(
    ("change", "area", "message"),
    [
        ('teachers.tiny.weights="nope.pth"', "teacher tiny", "nope.pth: cannot be read (No such"),
        ('teachers.tiny.target="nope:teacher"', "teacher tiny", "'nope' cannot be imported"),
        ('student.weights="run.toml/x.pth"', "student", "x.pth: cannot be read (Not a directory)"),
        ('flows={net={kind="raft_small", weights="."}}', "flow net", "folder"),
        (
            'teachers.tiny={kind="hf", path=".", classes=9}',
            "teacher tiny",
            "expected a folder with",
        ),
        ('teachers.tiny={kind="onnx", path="x.onnx", classes=9}', "teacher tiny", "x.onnx: cannot"),
    ],
)
def test_what_models_name_is_looked_at(
    change: str, area: str, message: str, run_file: Path
) -> None:
    (found,) = of(area, examine(load_run(run_file, [change])))
    assert found.state == "fault"
    assert message in found.what


@pytest.mark.parametrize(
    ("change", "area", "needs"),
    [
        (
            'student={kind="smp", architecture="FPN", encoder="resnet18"}',
            "student",
            "kind smp needs segmentation_models_pytorch",
        ),
        ('teachers.tiny={kind="timm", architecture="x"}', "teacher tiny", "kind timm needs timm"),
    ],
)
def test_a_kind_whose_package_is_missing_is_a_fault(
    change: str, area: str, needs: str, run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(run_file, [change])
    package, find = needs.rpartition(" ")[2], importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    (found,) = of(area, examine(run))
    assert (found.state, found.what) == (
        "fault",
        f"{needs}; run `pip install -e '.[train]'` in stillroom's own folder",
    )


def test_a_cluster_that_does_not_answer_is_a_fault() -> None:
    (found,) = of("ray", examine(address="127.0.0.1:1"))
    assert found.state == "fault"
    assert "no Ray cluster at '127.0.0.1:1'" in found.what


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_says_what_it_has() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    cluster.add_node(num_cpus=1, num_gpus=2)
    address = cluster.address
    try:
        (found,) = of("ray", examine(address=address))
    finally:
        cluster.shutdown()
    assert found.state == "ok"
    assert found.what == f"{address}: 2 nodes, 3 CPUs, 3 GPUs"
