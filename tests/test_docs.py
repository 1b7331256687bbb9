"""What the docs say of keys, commands and examples is so."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import stillroom
from stillroom.cli import main
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.sections import RunConfig
from stillroom.pipeline.sweep.file import load_sweep
from stillroom.pipeline.sweep.sweep_settings import SweepConfig
from stillroom.stages.train.losses.table import LOSSES
from stillroom.stages.train.objective_checks import needs_triplets
from stillroom.storage_specs.errors import StillroomError

REPOSITORY = Path(__file__).resolve().parent.parent
SWEEPS = sorted((REPOSITORY / "examples").glob("*_sweep.toml"))
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "recipes/README.md")
DOCUMENTS = [*(REPOSITORY / page for page in PAGES), *sorted((REPOSITORY / "docs").rglob("*.md"))]
ROOTS = "stillroom|stages|storage_specs|pipeline|tests|benchmarks|examples|recipes"


def test_every_key_of_a_run_file_is_documented() -> None:
    text = (REPOSITORY / "docs" / "run_file.md").read_text()
    text += (REPOSITORY / "docs" / "losses.md").read_text()
    text += "".join(page.read_text() for page in (REPOSITORY / "docs" / "losses").glob("*.md"))
    fenced = re.findall(r"```.*?```", text, re.DOTALL)
    inline = re.findall(r"`[^`]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    code = " ".join([*fenced, *inline])  # prose does not count
    schema = RunConfig.model_json_schema()
    for section, definition in schema["$defs"].items():
        for key in definition.get("properties", {}):
            assert re.search(rf"\b{key}\b", code), f"{section}.{key} is not in docs/run_file.md"


def test_every_term_is_in_the_index_of_losses_and_in_the_example_of_all_terms() -> None:
    index = (REPOSITORY / "docs" / "losses.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(losses/(\w+\.md)", index, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(LOSSES)
    front = (REPOSITORY / "README.md").read_text()
    assert [name for name in LOSSES if f"`{name}`" not in front] == []
    for name, page in rows:
        assert f"`{name}`" in (REPOSITORY / "docs" / "losses" / page).read_text()
    for page in (REPOSITORY / "docs" / "losses").glob("*.md"):
        assert f"](losses/{page.name}" in index, f"docs/losses.md leads nowhere to {page.name}"
        assert ".png)" in page.read_text(), f"{page.name} shows no picture"
    examples = "camvid_all_terms", "video", "street_tasks"
    runs = [load_run(REPOSITORY / "examples" / f"{one}.toml") for one in examples]
    single, of_clips, of_tasks = (run.terms for run in runs)
    assert {term.name for term in single + of_clips + of_tasks} == set(LOSSES)
    assert not any(needs_triplets(term) for term in single + of_tasks)


def test_every_error_is_named_in_the_page_on_operations() -> None:
    for module in pkgutil.walk_packages(stillroom.__path__, "stillroom."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    named = set(
        re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs/operations.md").read_text(), re.MULTILINE)
    )
    errors, found = [StillroomError], set()
    for error in errors:
        inner = error.__subclasses__()
        errors += inner
        found |= {each.__name__ for each in inner}
    assert found <= named, found - named
    assert named <= found, named - found


def test_messages_that_the_page_on_clusters_quotes_are_the_programs() -> None:
    page = (REPOSITORY / "docs" / "cluster.md").read_text().partition("## When it ends early")[2]
    quoted = [
        re.sub(r" N$", "", text)
        for row in re.findall(r"^\| (.*?) \|", page, re.MULTILINE)[2:]
        for text in re.findall(r"`([^`]+)`", row)
    ]
    assert len(quoted) > 10
    said = "\n".join(map(_texts_of, sorted((REPOSITORY / "stillroom").rglob("*.py"))))
    assert [text for text in quoted if text not in said] == []


def _texts_of(path: Path) -> str:
    """The strings of a module, values that are put into them left out."""
    tree = ast.parse(path.read_text())
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(value for value in constants if isinstance(value, str))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_documents_name_are_there(document: Path) -> None:
    named = re.findall(rf"`((?:{ROOTS})/[\w./]+\.(?:py|toml|md))`", document.read_text())
    places = (REPOSITORY, REPOSITORY / "stillroom")
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_the_documents_exist_with_their_options(document: Path) -> None:
    for line in re.findall(r"^(?:\$ )?stillroom ([^\n]+)", document.read_text(), re.MULTILINE):
        words = re.sub(r"'[^']*'", "VALUE", line.partition("#")[0]).split()
        verbs = words[:2] if words[0] == "cache" else words[:1]
        help_text = CliRunner().invoke(main, [*verbs, "--help"])
        assert help_text.exit_code == 0, line
        for word in words:
            if word.startswith("--"):
                assert word in help_text.stdout, f"{document.name}: {line}: no option {word}"


@pytest.mark.parametrize(
    "path",
    [
        *sorted(set((REPOSITORY / "examples").glob("*.toml")) - set(SWEEPS)),
        *sorted((REPOSITORY / "stillroom" / "pipeline" / "demo_runs").glob("*.toml")),
    ],
    ids=lambda path: path.name,
)
def test_examples_are_valid_run_files(path: Path) -> None:
    assert load_run(path).train is not None


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_sweeps_of_the_examples_are_sound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    sweep = load_sweep(path)
    assert len(sweep.students) == len(sweep.variants) * len(sweep.config.seeds)


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that docs/your_data.md describes, with its run file and its networks."""
    text = (REPOSITORY / "docs" / "your_data.md").read_text()
    (tmp_path / "town.toml").write_text(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
    (tmp_path / "town_networks.py").write_text(
        re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    )
    rng = np.random.default_rng(0)
    for place, count in (("train", 6), ("test", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "town" / place / kind).mkdir(parents=True)
        for number in range(count):
            mask = np.kron(rng.integers(0, 3, (6, 8)), np.ones((16, 16))).astype(np.uint8)
            folder, name = tmp_path / "town" / place, f"{number:04d}.png"
            Image.fromarray(mask).save(folder / "masks" / name)
            Image.fromarray(np.stack([mask * 80] * 3, -1)).save(folder / "images" / name)
    (tmp_path / "town" / "photos").mkdir()
    for number, size in enumerate([(128, 96), (60, 90), (200, 120)]):
        Image.new("RGB", size, (90, 90, 90)).save(tmp_path / "town" / "photos" / f"{number}.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_walk_through_your_own_data_is_so(town: Path) -> None:
    text = (REPOSITORY / "docs" / "your_data.md").read_text()
    commands = re.findall(r"^stillroom (.* town\.toml.*)$", text, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        done = CliRunner().invoke(main, command.split())
        assert done.exit_code == 0, f"{command}: {done.stderr}"
    assert (town / "runs" / "town" / "test.png").exists()
    assert "teacher:heavy" in done.stdout


def test_every_key_and_option_of_a_sweep_is_documented() -> None:
    text = (REPOSITORY / "docs" / "sweeps.md").read_text()
    for key in SweepConfig.model_fields:
        assert re.search(rf"^\| `{key}` \|", text, re.MULTILINE), key
    for option in main.commands["sweep"].params:
        flag = option.opts[0]
        assert not flag.startswith("--") or f"`{flag}" in text or f" {flag} " in text, flag


def test_the_sweep_that_the_documents_show_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (REPOSITORY / "docs" / "sweeps.md").read_text()
    shown = tmp_path / "sweep.toml"
    shown.write_text(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
    monkeypatch.chdir(REPOSITORY)
    assert len(load_sweep(shown).students) == 9
