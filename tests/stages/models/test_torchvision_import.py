from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stillroom.stages.models import torchvision_import
from stillroom.stages.models.torchvision_import import import_torchvision
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The __init__.py of a made-up torchvision that stands in for the real one."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torchvision_import, "_declared", [])
    return tmp_path / "torchvision" / "__init__.py"


def test_everything_that_builds_on_torchvision_imports_after_it_in_a_fresh_process() -> None:
    code = (
        "from stillroom.stages.models.torchvision_import import import_torchvision\n"
        "import_torchvision(); import_torchvision()\n"
        "import torchvision, timm, segmentation_models_pytorch\n"
        "print(torchvision.__name__, timm.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["torchvision", "timm"], done.stderr


def test_nothing_is_declared_where_torchvision_imports_by_itself(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.write_text("whole = True")
    monkeypatch.setattr(torchvision_import, "_declare_schemas", lambda: pytest.fail("declared"))
    import_torchvision()
    assert sys.modules["torchvision"].whole


def test_the_failed_half_is_forgotten_before_the_second_import(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.with_name("half.py").write_text("count = []")
    package.write_text(
        "from torchvision import half\n"
        "import builtins\n"
        "if not getattr(builtins, 'declared_for_test', False):\n"
        "    raise RuntimeError('operator torchvision::nms does not exist')\n"
    )

    def declare() -> None:
        assert "torchvision.half" not in sys.modules
        monkeypatch.setattr("builtins.declared_for_test", True, raising=False)

    monkeypatch.setattr(torchvision_import, "_declare_schemas", declare)
    import_torchvision()
    assert "torchvision" in sys.modules


def test_another_fault_of_torchvision_is_not_hidden(package: Path) -> None:
    package.write_text("raise RuntimeError('built for another planet')")
    with pytest.raises(RuntimeError, match="another planet"):
        import_torchvision()


def test_missing_torchvision_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ConfigError, match="install the release that matches torch"):
        import_torchvision()
