from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from fedcore.data import dimensions as module
from fedcore.data.dimensions import dims_and_channels
from fedcore.data.io.pictures.greyscale import known_greyscale
from fedcore.data.manifest.row import Row
from fedcore.errors import InputErrors

NOISE = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
GREYSCALE = Image.fromarray(NOISE[..., 0])


def rows(folder: Path, pictures: Sequence[object]) -> list[Row]:
    made = []
    for at, picture in enumerate(pictures):
        path = folder / f"{at}.png"
        if isinstance(picture, Image.Image):
            picture.save(path)
        elif isinstance(picture, np.ndarray):
            path = folder / f"{at}.nii"
            nibabel.save(nibabel.Nifti1Image(picture, np.eye(4)), path)
        else:
            path.write_bytes(b"damaged")
        made.append(Row(at + 2, path, "a", "train", None, None, str(at)))
    return made


def test_one_colour_image_is_found_at_any_place(tmp_path: Path) -> None:
    as_rgb, colour = GREYSCALE.convert("RGB"), Image.fromarray(NOISE)
    greyscale = [GREYSCALE, as_rgb, GREYSCALE.convert("LA")]
    assert dims_and_channels({"a": rows(tmp_path, greyscale)}, tmp_path) == (2, 1)
    assert dims_and_channels({"a": rows(tmp_path, [*greyscale * 15, colour])}, tmp_path) == (2, 3)
    assert dims_and_channels({"a": rows(tmp_path, [None, *greyscale, colour])}, tmp_path) == (2, 3)


def test_channels_of_volumes_are_found(tmp_path: Path) -> None:
    one, two, three = (np.random.default_rng(0).random((4, 5, 6, count)).astype(np.float32) for count in (1, 2, 3))
    assert dims_and_channels({"a": rows(tmp_path, [one, one[..., 0]])}, tmp_path) == (3, 1)
    assert dims_and_channels({"a": rows(tmp_path, [two, two])}, tmp_path) == (3, 2)
    assert dims_and_channels({"a": rows(tmp_path, [two, one])}, tmp_path) == (3, 1)  # decoding rejects the first
    assert dims_and_channels({"a": rows(tmp_path, [one, three])}, tmp_path) == (3, 3)


def test_greyscale_files_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = module.read_image
    monkeypatch.setattr(
        module, "read_image", lambda path, *rest, **kw: (read.append(path), original(path, *rest, **kw))[1]
    )
    found = rows(tmp_path, [GREYSCALE] * 50)
    assert dims_and_channels({"a": found}, tmp_path) == (2, 1)
    assert read == [found[0].image]
    assert dims_and_channels({"a": found}, tmp_path) == (2, 1)
    assert len(read) == 1


def test_unreadable_files_are_read_again_with_another_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are the same."""
    found, colour = rows(tmp_path, [GREYSCALE, Image.fromarray(NOISE)]), tmp_path / "1.png"
    original = module._of_image
    with monkeypatch.context() as patch:
        patch.setattr(module, "_of_image", lambda row: None)
        with pytest.raises(InputErrors, match="'a': none of its images can be read"):
            dims_and_channels({"a": found}, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_of_image", lambda row: None if row.image == colour else original(row))
        patch.setattr(module, "installed_decoders", lambda: ["another"])
        assert dims_and_channels({"a": found}, tmp_path) == (2, 1)
    assert dims_and_channels({"a": found}, tmp_path) == (2, 3)


def test_an_error_names_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputErrors, match=r"none of its images can be read; the first: row 2: truncated or unreadable"):
        dims_and_channels({"a": rows(tmp_path, [None, None])}, tmp_path)


@pytest.mark.parametrize(("name", "greyscale"), [
    ("CT_small.dcm", True), ("SC_rgb_small_odd.dcm", False), ("examples_palette.dcm", False), ("rtplan.dcm", False),
])  # fmt: skip
def test_greyscale_dicom_is_recognised_by_its_header(name: str, greyscale: bool) -> None:
    assert known_greyscale(Path(str(get_testdata_file(name, download=False)))) == greyscale
