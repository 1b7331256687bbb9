"""A Ray cluster, for those who ask for it.

address     of a cluster of two nodes, each of which says that it has four CPUs and a GPU
stillroom   calls the command line in a folder, in a process of its own
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    program = [sys.executable, str(Path(__file__).with_name("two_nodes.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(program, text=True, **pipes) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        lines = (line for line in cluster.stdout if line.startswith("address "))
        yield next(lines).split()[1]
        cluster.stdin.close()


@pytest.fixture(scope="session")
def stillroom() -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stillroom", *arguments],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return call
