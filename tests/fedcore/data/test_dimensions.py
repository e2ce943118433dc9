from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from fedcore.data import dimensions as module
from fedcore.data.dimensions import survey
from fedcore.data.io.pictures.greyscale import known_greyscale
from fedcore.data.manifest.row import Row
from fedcore.errors import InputErrors

NOISE = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
GREY = Image.fromarray(NOISE[..., 0])


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


def test_colour_is_found_wherever_it_is(tmp_path: Path) -> None:
    as_rgb, colour = GREY.convert("RGB"), Image.fromarray(NOISE)
    grey = [GREY, as_rgb, GREY.convert("LA")]
    assert survey({"a": rows(tmp_path, grey)}, tmp_path) == (2, 1)
    assert survey({"a": rows(tmp_path, [*grey * 15, colour])}, tmp_path) == (2, 3)
    assert survey({"a": rows(tmp_path, [None, *grey, colour])}, tmp_path) == (2, 3)


def test_channels_of_volumes(tmp_path: Path) -> None:
    one, two, three = (np.random.default_rng(0).random((4, 5, 6, count)).astype(np.float32) for count in (1, 2, 3))
    assert survey({"a": rows(tmp_path, [one, one[..., 0]])}, tmp_path) == (3, 1)
    assert survey({"a": rows(tmp_path, [two, two])}, tmp_path) == (3, 2)
    assert survey({"a": rows(tmp_path, [two, one])}, tmp_path) == (3, 1)  # decoding refuses the first
    assert survey({"a": rows(tmp_path, [one, three])}, tmp_path) == (3, 3)


def test_grey_files_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    honest = module.read_image
    monkeypatch.setattr(
        module, "read_image", lambda path, *rest, **kw: (read.append(path), honest(path, *rest, **kw))[1]
    )
    found = rows(tmp_path, [GREY] * 50)
    assert survey({"a": found}, tmp_path) == (2, 1)
    assert read == [found[0].image]
    assert survey({"a": found}, tmp_path) == (2, 1)
    assert len(read) == 1


def test_what_could_not_be_read_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the installation of a decoder, with the same files."""
    found, colour = rows(tmp_path, [GREY, Image.fromarray(NOISE)]), tmp_path / "1.png"
    honest = module._look
    with monkeypatch.context() as patch:
        patch.setattr(module, "_look", lambda row: None)
        with pytest.raises(InputErrors, match="'a': none of its images can be read"):
            survey({"a": found}, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_look", lambda row: None if row.image == colour else honest(row))
        patch.setattr(module, "decoders", lambda: ["another"])
        assert survey({"a": found}, tmp_path) == (2, 1)
    assert survey({"a": found}, tmp_path) == (2, 3)


def test_the_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputErrors, match=r"none of its images can be read; the first: row 2: truncated or unreadable"):
        survey({"a": rows(tmp_path, [None, None])}, tmp_path)


@pytest.mark.parametrize(("name", "grey"), [
    ("CT_small.dcm", True), ("SC_rgb_small_odd.dcm", False), ("examples_palette.dcm", False), ("rtplan.dcm", False),
])  # fmt: skip
def test_headers_of_dicom(name: str, grey: bool) -> None:
    assert known_greyscale(Path(str(get_testdata_file(name, download=False)))) == grey
