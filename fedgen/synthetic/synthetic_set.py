"""A set of drawn images in a folder: how it was asked for, the images, and a manifest that the kit itself reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.data.synthetic.synthetic_set import SETTINGS, SITE, digest_of
from fedcore.errors import InputError
from fedcore.files.lock import holds_nothing
from fedcore.files.reading import read_json
from fedcore.files.writing import append, require_no_links, require_writable, write_atomically, write_json
from fedgen.synthetic.image_files import decoded, encoded, encoded_mask

COLUMNS = ("image", "site", "split", "label", "imitates", "mask")
"""Every row's site is SITE; `imitates` says whose look the image was asked to have."""
MANIFEST = "manifest.csv"
NOTE = "pairs"
"""In the settings: a sentence on pairs of class and site that were not drawn, or of which nothing is known."""
TEACHER_ACCURACY = "teacher_accuracy"
"""In the settings of an inverted set that is whole, beside what was asked: see fedgen.oneshot.teacher_accuracy."""


@dataclass(frozen=True)
class SyntheticImage:
    number: int
    """What its noise was made from, and its row."""
    path: Path
    label: str | None
    imitates: str | None
    mask: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,) if self.mask is None else (self.path, self.mask)


@dataclass(frozen=True)
class SyntheticSet:
    folder: Path
    settings: dict[str, Any]
    images: tuple[SyntheticImage, ...]

    @classmethod
    def open(cls, folder: Path) -> SyntheticSet:
        """Raises InputError where no finished set is."""
        settings = read_settings(folder)
        try:
            with (folder / MANIFEST).open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            images = tuple(_image(at, folder, row) for at, row in enumerate(rows))
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as e:
            raise InputError(
                f"{folder / MANIFEST} is missing or damaged ({type(e).__name__}); draw the set anew"
            ) from e
        if not images:
            raise InputError(f"{folder} holds no drawn image yet; go on with it by generate sample --resume true")
        if gone := next((path for image in images for path in image.files if not path.is_file()), None):
            raise InputError(f"{folder} lacks files that its manifest names, e.g. {gone.name}; draw it anew")
        return cls(folder, settings, images)

    def without(self, numbers: Collection[int]) -> SyntheticSet:
        return SyntheticSet(self.folder, self.settings, tuple(i for i in self.images if i.number not in numbers))

    def pixels(self) -> Float[Tensor, "n c *space"]:
        """All images in [-1, 1], as float16: 8 KB each of 64 x 64 pixels."""
        images = [decoded(image.path).half() for image in self.images]
        if len(shapes := {tuple(image.shape) for image in images}) > 1:
            raise InputError(f"{self.folder} holds images of several shapes, {sorted(shapes)[:2]}; draw the set anew")
        return torch.stack(images)

    def digest(self) -> str:
        """Of its rows, its files and how it was asked for (`fedcore.data.synthetic.synthetic_set.digest_of`)."""
        return digest_of(self.folder / MANIFEST)


def _image(at: int, folder: Path, row: Mapping[str, str]) -> SyntheticImage:
    mask = _inside(folder, row["mask"]) if row["mask"] else None
    return SyntheticImage(at, _inside(folder, row["image"]), row["label"] or None, row["imitates"] or None, mask)


def _inside(folder: Path, name: str) -> Path:
    """A file of the set. What a release copies must not be led elsewhere by a manifest that was changed by hand."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder / MANIFEST} names a file outside of its folder; draw the set anew")
    return path


def read_settings(folder: Path) -> dict[str, Any]:
    """How the set of `folder` was asked for."""
    return read_json(folder / SETTINGS, f"{folder} holds no set of drawn images; give the folder of one")


def begin(out: Path, settings: dict[str, Any], resume: bool) -> int:
    """Checks the folder, writes the settings into a new one, and returns how many images it holds.

    Raises:
        InputError: It holds something else, or a set that may not or cannot be gone on with.
    """
    require_writable(out)
    require_no_links(out)
    if holds_nothing(out):
        write_json(out / SETTINGS, settings)
        _write_rows(out, [COLUMNS])
        return 0
    try:
        there = read_settings(out)
        rows = (out / MANIFEST).read_text(encoding="utf-8")
    except (OSError, ValueError, InputError) as e:
        raise InputError(f"{out} is not empty and holds no set of drawn images; name another folder") from e
    if not resume:
        raise InputError(f"{out} holds a set already; go on with it by --resume true, or name another folder")
    there.pop(TEACHER_ACCURACY, None)
    if differing := [key for key in settings | there if there.get(key) != settings.get(key)]:
        raise InputError(
            f"{out} was drawn with another {' and '.join(differing)}; name another folder, or ask for the same"
        )
    whole = rows[: rows.rfind("\n") + 1]  # a last line that was cut off is drawn again
    if whole != rows:
        write_atomically(out / MANIFEST, whole.encode())
    return whole.count("\n") - 1


def add(
    out: Path, numbers: Iterable[int], images: Float[Tensor, "n c *space"],
    names: Iterable[tuple[str | None, str | None]], masks: Int[Tensor, "n *space"] | None = None,
) -> None:  # fmt: skip
    """Writes images and masks, then their rows: the manifest never names a file that is not there.

    `names`: class and site of each.
    """
    rows = []
    for at, (number, (label, site)) in enumerate(zip(numbers, names, strict=True)):
        image = _write(out / f"images/{number:06d}", encoded(images[at]))
        mask = "" if masks is None else _write(out / f"masks/{number:06d}", encoded_mask(masks[at]))
        rows.append((image, SITE, "train", label or "", site or "", mask))
    _write_rows(out, rows)


def _write(path: Path, file: tuple[bytes, str]) -> str:
    """Writes a file under its ending and returns its name in the manifest."""
    data, ending = file
    whole = path.with_name(f"{path.name}.{ending}")
    write_atomically(whole, data)
    return f"{whole.parent.name}/{whole.name}"


def _write_rows(out: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    append(out / MANIFEST, text.getvalue())
