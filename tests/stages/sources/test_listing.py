from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.stages.sources.listing import (
    ListedFrame,
    find_images,
    listing_sha256,
    natural_key,
)
from stillroom.storage_specs.errors import ConfigError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def names(folder: Path, *, recursive: bool = True) -> list[str]:
    """Paths of the images below a folder, in the order of a source's frames."""
    found = [file.relative for file in find_images(folder, recursive=recursive)]
    return sorted(found, key=natural_key)


def test_numbers_in_names_sort_as_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "f10.png", "f2.png", "f1.png", "b/f3.jpg", "a/f20.jpg", "a/f3.jpg")
    assert names(tmp_path) == ["a/f3.jpg", "a/f20.jpg", "b/f3.jpg", "f1.png", "f2.png", "f10.png"]


@given(st.lists(st.text(alphabet="ab019²/_.", max_size=6), max_size=8))
def test_natural_order_is_total_and_ignores_the_order_of_arrival(texts: list[str]) -> None:
    ordered = sorted(texts, key=natural_key)
    backwards = texts[::-1]
    assert sorted(backwards, key=natural_key) == ordered
    assert all((natural_key(a) == natural_key(b)) == (a == b) for a in texts for b in texts)


def test_only_visible_images_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.PNG", "b.txt", "._a.png", ".cache/c.png", "d.jpeg", "Thumbs.db")
    assert names(tmp_path) == ["a.PNG", "d.jpeg"]


def test_subfolders_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b.png")
    assert names(tmp_path, recursive=False) == ["a.png"]


def test_a_circle_of_links_is_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.png")
    (tmp_path / "sub" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert names(tmp_path) == ["sub/a.png"]


def test_a_dangling_link_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    assert names(tmp_path) == ["a.png"]


def test_a_missing_folder_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere does not exist"):
        find_images(tmp_path / "nowhere", recursive=True)


def test_a_file_in_place_of_a_folder_is_a_config_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=r"a\.png is a file, not a folder"):
        find_images(tmp_path / "a.png", recursive=True)


def test_an_empty_folder_is_a_config_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(ConfigError, match="holds no image"):
        find_images(tmp_path, recursive=True)


def test_an_unreadable_folder_is_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "locked/b.png")
    scan = os.scandir

    def refuse(folder: str) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match="locked cannot be read: Permission denied"):
        find_images(tmp_path, recursive=True)


def test_a_name_that_is_not_utf8_is_a_config_error(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"a\xff.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ConfigError, match=r"not printable UTF-8"):
        find_images(tmp_path, recursive=True)


def test_the_digest_depends_on_names_and_sizes_but_not_on_order_or_place() -> None:
    first = ListedFrame("a", "x/a.png", 10, "x/a_label.png", 5)
    second = ListedFrame("b", "x/b.png", 20, "x/b_label.png", 6)
    digest = listing_sha256([first, second])
    assert listing_sha256([second, first]) == digest
    assert listing_sha256([replace(first, image=Path("elsewhere/a.png")), second]) == digest
    changes = [
        replace(first, frame_id="c"),
        replace(first, size=11),
        replace(first, label_size=6),
        replace(first, label_size=None),
        replace(first, label=None, label_size=None),
    ]
    digests = {listing_sha256([changed, second]) for changed in changes}
    assert len(digests) == len(changes)
    assert digest not in digests


def test_the_digest_cannot_be_forged_by_a_name() -> None:
    one = [ListedFrame('a", 1]\n["b', Path("a"), 2)]
    two = [ListedFrame("a", Path("a"), 1), ListedFrame("b", Path("b"), 2)]
    assert listing_sha256(one) != listing_sha256(two)
