"""A synthetic set in a folder: its settings, the images, and a manifest that `Data` reads."""

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

COLUMNS = ("image", "site", "split", "label", "site_style", "mask")
"""The site of every row is SITE; `site_style` is the site that the image was conditioned on."""
MANIFEST = "manifest.csv"
NOTE = "note"
"""Key of the settings: a sentence on combinations of class and site that were not generated, or are unknown."""
TEACHER_ACCURACY = "teacher_accuracy"
"""Key of the settings of a complete inverted set: see fedgen.oneshot.teacher_accuracy."""


@dataclass(frozen=True)
class SyntheticImage:
    """One image of a set."""

    number: int
    """Its row, and the number of its noise."""
    path: Path
    label: str | None
    site_style: str | None
    mask: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,) if self.mask is None else (self.path, self.mask)


@dataclass(frozen=True)
class SyntheticSet:
    """A set as its folder holds it."""

    folder: Path
    settings: dict[str, Any]
    images: tuple[SyntheticImage, ...]

    @classmethod
    def open(cls, folder: Path) -> SyntheticSet:
        """Raises InputError unless the folder holds a set with at least one image."""
        settings = read_settings(folder)
        try:
            with (folder / MANIFEST).open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            images = tuple(_image(at, folder, row) for at, row in enumerate(rows))
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as e:
            raise InputError(
                f"{folder / MANIFEST} is missing or damaged ({type(e).__name__}); generate the set again"
            ) from e
        if not images:
            raise InputError(f"{folder} holds no image yet; continue the set with generate sample --resume true")
        if gone := next((path for image in images for path in image.files if not path.is_file()), None):
            raise InputError(f"{folder} lacks files that its manifest names, e.g. {gone.name}; generate it again")
        return cls(folder, settings, images)

    def without(self, numbers: Collection[int]) -> SyntheticSet:
        return SyntheticSet(self.folder, self.settings, tuple(i for i in self.images if i.number not in numbers))

    def pixels(self) -> Float[Tensor, "n c *space"]:
        """All images in [-1, 1] as float16; 8 KB for an image of 64 x 64 pixels."""
        images = [decoded(image.path).half() for image in self.images]
        if len(shapes := {tuple(image.shape) for image in images}) > 1:
            raise InputError(
                f"{self.folder} has images of several shapes, {sorted(shapes)[:2]}; generate the set again"
            )
        return torch.stack(images)

    def digest(self) -> str:
        """Of its rows, files and settings (`fedcore.data.synthetic.synthetic_set.digest_of`)."""
        return digest_of(self.folder / MANIFEST)


def _image(at: int, folder: Path, row: Mapping[str, str]) -> SyntheticImage:
    mask = _inside(folder, row["mask"]) if row["mask"] else None
    return SyntheticImage(at, _inside(folder, row["image"]), row["label"] or None, row["site_style"] or None, mask)


def _inside(folder: Path, name: str) -> Path:
    """A file of the set. A changed manifest must not make a release copy files from elsewhere."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{folder / MANIFEST} names a file outside of its folder; generate the set again")
    return path


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings with which the set of `folder` was generated."""
    return read_json(folder / SETTINGS, f"{folder} holds no synthetic set; give the folder of one")


def begin(out: Path, settings: dict[str, Any], resume: bool) -> int:
    """Checks the folder, writes the settings into a new one, and returns the number of images it holds.

    Raises:
        InputError: It holds something else, or a set that cannot be continued with these settings.
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
        raise InputError(f"{out} is not empty and holds no synthetic set; name another folder") from e
    if not resume:
        raise InputError(f"{out} holds a set already; continue it with --resume true, or name another folder")
    there.pop(TEACHER_ACCURACY, None)
    if differing := [key for key in settings | there if there.get(key) != settings.get(key)]:
        raise InputError(
            f"the set in {out} has another {' and '.join(differing)}; name another folder, or use the same settings"
        )
    whole = rows[: rows.rfind("\n") + 1]  # the image of a last line that was cut off is generated again
    if whole != rows:
        write_atomically(out / MANIFEST, whole.encode())
    return whole.count("\n") - 1


def add(
    out: Path, numbers: Iterable[int], images: Float[Tensor, "n c *space"],
    conditions: Iterable[tuple[str | None, str | None]], masks: Int[Tensor, "n *space"] | None = None,
) -> None:  # fmt: skip
    """Writes images and masks, then their rows, so that the manifest never names a missing file.

    `conditions`: class and site of each image.
    """
    rows = []
    for at, (number, (label, site)) in enumerate(zip(numbers, conditions, strict=True)):
        image = _write(out / f"images/{number:06d}", encoded(images[at]))
        mask = "" if masks is None else _write(out / f"masks/{number:06d}", encoded_mask(masks[at]))
        rows.append((image, SITE, "train", label or "", site or "", mask))
    _write_rows(out, rows)


def _write(path: Path, file: tuple[bytes, str]) -> str:
    """Writes a file with its extension and returns its name in the manifest."""
    data, extension = file
    whole = path.with_name(f"{path.name}.{extension}")
    write_atomically(whole, data)
    return f"{whole.parent.name}/{whole.name}"


def _write_rows(out: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    append(out / MANIFEST, text.getvalue())
