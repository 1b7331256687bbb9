"""Runs what is in `on_device` on the make-believe CUDA device, each file in a process of its own.

Torch looks for devices when it is imported, so that the device must be there before. To run one
check by hand, with pytest's own options:

    python tests/make_believe/test_on_device.py on_device/check_step.py -k resumed
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from shutil import which

import pytest

HERE = Path(__file__).parent
CHECKS = sorted(path.name for path in (HERE / "on_device").glob("check_*.py"))


def compiled(compiler: str) -> Path:
    """The stub of the device as a library: made once for a torch and a source."""
    import torch

    source = HERE / "hooks.cpp"
    torch_home = Path(torch.__file__).parent
    stamp = f"{torch.__version__}-{sysconfig.get_platform()}-{source.stat().st_mtime_ns:x}"
    library = Path(tempfile.gettempdir()) / f"stillroom-make-believe-{os.getuid()}" / f"{stamp}.so"
    if not library.exists():
        library.parent.mkdir(mode=0o700, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        include = torch_home / "include"
        command = [
            compiler, "-O0", "-shared", "-fPIC", "-std=c++20", f"-I{include}",
            f"-I{include}/torch/csrc/api/include", str(source), "-o", str(made),
            f"-L{torch_home}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_home}/lib",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        made.replace(library)  # whole at once: other processes may make it too
    return library


def run_checks(library: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "make_believe.device", "-p", "no:cacheprovider",
         "-q", *arguments],
        cwd=HERE.parents[1],
        env={**os.environ, "STILLROOM_MAKE_BELIEVE": str(library), "PYTHONPATH": path},
        text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def library() -> Path:
    import torch

    compiler = which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler for the stub of the device: install g++, or set CXX")
    if torch.version.cuda is not None:
        pytest.skip("this torch is built for real CUDA: `make gpu` has its tests")
    return compiled(compiler)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("checks", CHECKS)
def test_on_the_make_believe_device(library: Path, checks: str) -> None:
    done = run_checks(library, [str(HERE / "on_device" / checks)])
    assert done.returncode == 0, f"see what {checks} printed"


if __name__ == "__main__":
    files = [str(HERE / word) if word.startswith("on_device") else word for word in sys.argv[1:]]
    sys.exit(run_checks(compiled(os.environ.get("CXX", "g++")), files).returncode)
