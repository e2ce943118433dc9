from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedcore.data.manifest.manifest import read_manifest
from fedcore.data.manifest.row import Row
from fedcore.data.preprocess import mask_values
from fedcore.data.preprocess.mask_values import check_class_numbers, check_mask_values, infer_mask_255, read_mask_values
from fedcore.data.source import Data
from fedcore.errors import InputErrors
from fedtune.evaluation.native_grid import NativeFiles

SIDE = 8


def rows(folder: Path, **sites: list[tuple[int, ...]]) -> tuple[Row, ...]:
    """An image for each set of numbers, whose mask has bands of them."""
    lines = ["image,site,split,mask"]
    for site, masks in sites.items():
        for at, numbers in enumerate(masks):
            name = f"{site}{at}.png"
            bands = np.array(numbers, np.uint8)[np.arange(SIDE) * len(numbers) // SIDE]
            Image.fromarray(np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1)) + at).save(folder / name)
            Image.fromarray(np.tile(bands, (SIDE, 1))).save(folder / f"m_{name}")
            lines.append(f"{name},{site},{'test' if at == 0 else 'train'},m_{name}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return read_manifest(folder / "manifest.csv").rows


def data(folder: Path, **settings: object) -> Data:
    return Data(str(folder / "manifest.csv"), size=SIDE, cache=folder / "cache", **settings)  # type: ignore[arg-type]


def shown(cohort_data: Data) -> dict[str, set[int]]:
    return {site: set(np.unique(images.masks).tolist()) for site, images in cohort_data.load().sites.items()}


def decided(**sites: list[tuple[int, ...]]) -> str:
    return infer_mask_255({site: Counter(masks) for site, masks in sites.items()})


def test_255_has_one_meaning_in_all_masks() -> None:
    assert decided(a=[(0,), (0, 255)], b=[(255,), (0, 255)]) == "class"
    assert decided(a=[(0, 1, 255), (255,), (0, 255)], b=[(0, 1), (0, 1, 255)]) == "unlabelled"
    assert decided(a=[(0, 2)], b=[(0, 1)]) == "unlabelled"
    assert decided() == "unlabelled"


def test_ambiguous_masks_need_the_option() -> None:
    with pytest.raises(InputErrors, match=r"'a': its masks are 255 everywhere[\s\S]*Set data.mask_255 to class"):
        decided(a=[(255,)], b=[(255,)])
    with pytest.raises(InputErrors, match=r"'a': its masks contain only 0 and 255, masks of other sites also 1 and 2"):
        decided(a=[(0, 255)], b=[(0, 1, 2)])
    with pytest.raises(InputErrors, match=r"'a': its masks contain only 255"):
        decided(a=[(255,)], b=[(0, 1, 255)])


def test_the_meaning_applies_to_training_and_evaluation(tmp_path: Path) -> None:
    rows(tmp_path, a=[(0, 255), (0, 1)], b=[(255,), (0, 1, 255)])
    assert shown(data(tmp_path)) == {"a": {0, 1, 255}, "b": {0, 1, 255}}
    assert shown(data(tmp_path, mask_255="class")) == {"a": {0, 1}, "b": {0, 1}}
    for settings, meaning in (({}, "unlabelled"), ({"mask_255": "class"}, "class")):
        asked = data(tmp_path, **settings)
        assert NativeFiles.of(asked, asked.load().size, 1).decoding.mask_255 == meaning


def test_in_binary_masks_255_is_class_1(tmp_path: Path) -> None:
    rows(tmp_path, a=[(0, 255), (255,)], b=[(0,), (0, 255)])
    assert shown(data(tmp_path)) == {"a": {0, 1}, "b": {0, 1}}
    assert "site 'a': 1 mask of 255 everywhere, treated as class 1" in data(tmp_path).load().warnings
    assert shown(data(tmp_path, mask_255="unlabelled")) == {"a": {0, 255}, "b": {0, 255}}


def test_masks_of_sites_that_are_not_used_count_too(tmp_path: Path) -> None:
    rows(tmp_path, a=[(0, 255), (0, 1)], b=[(0, 1)])
    assert shown(data(tmp_path, sites=("a",))) == {"a": {0, 1, 255}}


def test_numbers_are_counted_by_site(tmp_path: Path) -> None:
    found = rows(tmp_path, a=[(0, 1), (0, 2), (0, 1, 255)], b=[(0,)])
    assert _numbers(found, tmp_path) == {"a": {0: 3, 1: 2, 2: 1, 255: 1}, "b": {0: 1}}
    damaged = replace(found[0], mask=tmp_path / "manifest.csv")
    assert _numbers([damaged, *found[1:]], tmp_path)["a"] == {0: 2, 1: 1, 2: 1, 255: 1}
    assert _numbers([replace(row, mask=None) for row in found], tmp_path) == {}


def test_masks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows(tmp_path, a=[(0, 1), (0, 2)])
    first = read_mask_values(found, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(mask_values, "read_mask", None)
        assert read_mask_values(found, tmp_path) == first
    (tmp_path / "m_a0.png").write_bytes(b"damaged")
    assert read_mask_values(found, tmp_path) == {"a": {(0, 2): 1}}
    Image.new("L", (SIDE, SIDE), 3).save(tmp_path / "m_a0.png")
    assert read_mask_values(found, tmp_path) == {"a": {(0, 2): 1, (3,): 1}}


def test_gaps_in_the_numbers_are_a_warning_or_an_error() -> None:
    def warnings_for(*numbers: int) -> list[str]:
        return check_class_numbers({"a": Counter([numbers])}, "unlabelled")

    assert warnings_for(0, 1, 2, 255) == []
    assert warnings_for(0, 1, 2, 4) == [
        "masks contain the class numbers 1, 2 and 4; 1 below 4 do not occur, but a segmenter has an output for each"
    ]
    assert len(warnings_for(0, 5)) == 1
    for sparse in ((0, 128), (0, 63, 126, 189, 252)):
        with pytest.raises(InputErrors, match="Number the classes 1, 2, 3"):
            warnings_for(*sparse)
    assert check_class_numbers({"a": Counter([(0, 255)])}, "class") == []


def test_data_check_has_errors_and_warnings() -> None:
    assert check_mask_values({"a": Counter([(0, 1)])}) == ([], [])
    errors, warnings = check_mask_values({"a": Counter([(0, 255)]), "b": Counter([(0, 1)])})
    assert not errors
    assert "a run needs data.mask_255" in warnings[0]
    errors, _ = check_mask_values({"a": Counter([(0, 128)])})
    assert "127 below 128 do not occur" in errors[0]
    assert len(check_mask_values({"a": Counter([(0, 1, 255)] * 3)})[1]) == 1


def _numbers(rows: list[Row], folder: Path) -> dict[str, dict[int, int]]:
    """By site the numbers of its masks, each with how many masks hold it."""
    found: dict[str, Counter[int]] = {}
    for site, sets in read_mask_values(rows, folder).items():
        found[site] = Counter(number for numbers, count in sets.items() for number in numbers for _ in range(count))
    return {site: dict(counts) for site, counts in found.items()}
