"""Cityscapes' snippets: which frames make one, in cities of short sequences and of long drives."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from stillroom.stages.sources.cityscapes import CLASSES, CityscapesSequenceConfig
from stillroom.stages.sources.open import open_source
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stillroom.stages.sources.source import Source


def frames(root: Path, city: str, sequence: int, numbers: Iterable[int]) -> None:
    folder = root / "leftImg8bit_sequence" / "val" / city
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        name = f"{city}_{sequence:06d}_{number:06d}_leftImg8bit.png"
        Image.fromarray(np.full((2, 4, 3), number % 251, np.uint8)).save(folder / name)


def label(root: Path, city: str, sequence: int, number: int, ids: Iterable[int] = (7,)) -> None:
    folder = root / "gtFine" / "val" / city
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.resize(np.array(list(ids), np.uint8), (2, 4))
    stem = f"{city}_{sequence:06d}_{number:06d}_gtFine"
    Image.fromarray(ids).save(folder / f"{stem}_labelIds.png")
    Image.fromarray(ids).save(folder / f"{stem}_instanceIds.png")
    Image.fromarray(np.stack([ids] * 3, 2)).save(folder / f"{stem}_color.png")
    (folder / f"{stem}_polygons.json").write_text("{}")


def opened(root: Path, **changes: Any) -> Source:
    return open_source(CityscapesSequenceConfig(root=root, split="val", **changes))


def clips(source: Source) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for index in range(len(source)):
        clip, time = source.position(index)
        assert clip is not None
        assert time is not None
        found[clip].append(time)
    return dict(found)


def test_a_sequence_number_a_snippet_is_one_clip_each(tmp_path: Path) -> None:
    for sequence in (0, 1):
        frames(tmp_path, "aachen", sequence, range(30))
        label(tmp_path, "aachen", sequence, 19)
    source = opened(tmp_path)
    assert clips(source) == {
        "aachen/aachen_000000_000019": list(range(30)),
        "aachen/aachen_000001_000019": list(range(30)),
    }
    assert source.frame_ids[0] == "aachen/aachen_000000_000000"
    assert [index for index in range(60) if source.labelled(index)] == [19, 49]
    assert source.load(19).frame_id == "aachen/aachen_000000_000019"


def test_snippets_of_one_drive_are_told_apart_by_gaps_and_by_labels(tmp_path: Path) -> None:
    # 0..29 and 30..59 lie back to back, 100..129 far away
    frames(tmp_path, "hamburg", 0, [*range(60), *range(100, 130)])
    for number in (19, 49, 119):
        label(tmp_path, "hamburg", 0, number)
    assert clips(opened(tmp_path)) == {
        "hamburg/hamburg_000000_000019": list(range(30)),
        "hamburg/hamburg_000000_000049": list(range(30, 60)),
        "hamburg/hamburg_000000_000119": list(range(100, 130)),
    }


def test_a_missing_frame_leaves_its_snippet_whole(tmp_path: Path) -> None:
    frames(tmp_path, "bochum", 0, [*range(294, 300), *range(303, 324)])
    label(tmp_path, "bochum", 0, 313)
    found = clips(opened(tmp_path))
    assert found == {"bochum/bochum_000000_000313": [*range(294, 300), *range(303, 324)]}


def test_frames_in_no_window_go_by_their_runs_in_thirties(tmp_path: Path) -> None:
    frames(tmp_path, "ulm", 0, [*range(30), *range(40, 45), *range(50, 115)])
    frames(tmp_path, "ulm", 1, range(115, 118))
    label(tmp_path, "ulm", 0, 19)
    assert clips(opened(tmp_path)) == {
        "ulm/ulm_000000_000019": list(range(30)),
        "ulm/ulm_000000_000040": list(range(40, 45)),
        "ulm/ulm_000000_000050": list(range(50, 80)),
        "ulm/ulm_000000_000080": list(range(80, 110)),
        "ulm/ulm_000000_000110": list(range(110, 115)),
        "ulm/ulm_000001_000115": list(range(115, 118)),
    }


def test_a_run_ends_where_a_window_begins(tmp_path: Path) -> None:
    frames(tmp_path, "ulm", 0, range(36))
    label(tmp_path, "ulm", 0, 22)  # its window is 3..32
    assert clips(opened(tmp_path)) == {
        "ulm/ulm_000000_000000": [0, 1, 2],
        "ulm/ulm_000000_000022": list(range(3, 33)),
        "ulm/ulm_000000_000033": [33, 34, 35],
    }


def test_of_two_windows_that_overlap_the_earlier_has_the_frames(tmp_path: Path) -> None:
    frames(tmp_path, "ulm", 0, range(45))
    label(tmp_path, "ulm", 0, 19)
    label(tmp_path, "ulm", 0, 34)  # 15..44
    assert clips(opened(tmp_path)) == {
        "ulm/ulm_000000_000019": list(range(30)),
        "ulm/ulm_000000_000034": list(range(30, 45)),
    }


def test_windows_end_with_their_sequence_and_city(tmp_path: Path) -> None:
    for city, sequence in (("jena", 0), ("jena", 1), ("zurich", 0)):
        frames(tmp_path, city, sequence, range(5))
    label(tmp_path, "jena", 1, 4)
    assert sorted(clips(opened(tmp_path))) == [
        "jena/jena_000000_000000",
        "jena/jena_000001_000004",
        "zurich/zurich_000000_000000",
    ]


def test_the_nineteen_classes_come_from_label_ids_and_the_rest_is_ignored(tmp_path: Path) -> None:
    frames(tmp_path, "ulm", 0, range(20))
    label(tmp_path, "ulm", 0, 19, [7, 8, 0, 33, 31, 29, 255, 13])
    source = opened(tmp_path)
    found = source.load(19).label
    assert found is not None
    names = [None if value == 255 else CLASSES[value] for value in found.ravel()]
    assert names == ["road", "sidewalk", None, "bicycle", "train", None, None, "fence"]
    assert source.classes == CLASSES
    assert len(CLASSES) == 19
    empty = source.load(0).label
    assert empty is not None
    assert (empty == 255).all()


def test_frames_around_the_label_are_kept(tmp_path: Path) -> None:
    for sequence in (0, 1):
        frames(tmp_path, "ulm", sequence, range(30))
    label(tmp_path, "ulm", 0, 19)
    assert clips(opened(tmp_path, around_labels=3)) == {
        "ulm/ulm_000000_000019": list(range(16, 23))
    }


def test_single_frames_alone_say_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit" / "val").mkdir(parents=True)
    label(tmp_path, "ulm", 0, 19)
    with pytest.raises(ConfigError, match=r"frames around them, leftImg8bit_sequence_trainvaltest"):
        opened(tmp_path)
    (tmp_path / "leftImg8bit" / "val").rmdir()
    (tmp_path / "leftImg8bit").rmdir()
    with pytest.raises(ConfigError, match="leftImg8bit_sequence/val does not exist"):
        opened(tmp_path)


def test_frames_without_the_labels_folder_are_refused(tmp_path: Path) -> None:
    frames(tmp_path, "ulm", 0, range(3))
    with pytest.raises(ConfigError, match="gtFine/val does not exist"):
        opened(tmp_path)
    label(tmp_path, "jena", 0, 19)
    with pytest.raises(ConfigError, match=r"no frame .* against 'jena/jena_000000_000019'"):
        opened(tmp_path)


def test_a_name_of_another_form_is_refused(tmp_path: Path) -> None:
    frames(tmp_path, "ulm", 0, range(3))
    label(tmp_path, "ulm", 0, 1)
    folder = tmp_path / "leftImg8bit_sequence" / "val" / "ulm"
    (folder / "ulm_000000_000002_leftImg8bit.png").rename(folder / "ulm_leftImg8bit.png")
    with pytest.raises(ConfigError, match="'ulm/ulm' is no name of Cityscapes"):
        opened(tmp_path)


def test_the_identity_is_json_without_paths_and_the_source_travels(tmp_path: Path) -> None:
    frames(tmp_path, "ulm", 0, range(30))
    label(tmp_path, "ulm", 0, 19)
    source = opened(tmp_path)
    told = source.identity()
    assert json.loads(json.dumps(told)) == told
    assert str(tmp_path) not in json.dumps(told)
    assert (told["kind"], told["split"], told["frames"]) == ("cityscapes_sequence", "val", 30)
    again = pickle.loads(pickle.dumps(source))
    assert clips(again) == clips(source)
    assert again.identity() == told
