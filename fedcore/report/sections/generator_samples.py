"""What the sites of a generator's run kept of it: their own images, images drawn to be like them, the way to one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.report.read.site_files import UNREADABLE, holders, kept
from fedcore.report.sections.feature_gallery import class_name
from fedcore.report.sections.images import thumbnail

FILE = "sample_gallery.npz"
_BYTES = 1_800_000  # of the page's 5 MB


@dataclass(frozen=True)
class Row:
    """One class; `real` and `drawn` are data URIs."""

    label: str
    real: tuple[str, ...]
    drawn: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """What the image was taken for at one step of the way."""

    step: int
    picture: str


@dataclass(frozen=True)
class Exhibit:
    """`way` is empty of a generator that draws in one step, else of `steps` steps."""

    site: str
    rows: tuple[Row, ...]
    way: tuple[Frame, ...]
    steps: int

    @property
    def most(self) -> int:
        """Images of a row at most."""
        return max((len(images) for row in self.rows for images in (row.real, row.drawn)), default=1)

    @property
    def size(self) -> int:
        pictures = [picture for row in self.rows for picture in (*row.real, *row.drawn)]
        return sum(map(len, pictures)) + sum(len(frame.picture) for frame in self.way)


def read_exhibits(folder: Path, sites: Iterable[str], classes: Sequence[str], gaps: list[str]) -> tuple[Exhibit, ...]:
    """Those of the sites that left one, within the page's bytes; what is missing is noted."""
    found: list[Exhibit] = []
    having = holders(folder, sites, FILE)
    for at, site in enumerate(having):
        try:
            with kept(folder, site, FILE) as held:
                exhibit = _exhibit(site, held, classes)
        except UNREADABLE:
            gaps.append(f"The drawn images of {site} cannot be read.")
            continue
        if exhibit.size + sum(one.size for one in found) > _BYTES:
            gaps.append(f"The drawn images of {len(having) - at} sites are left out to keep this page small.")
            break
        found.append(exhibit)
    return tuple(found)


def _exhibit(site: str, held: Mapping[str, np.ndarray], classes: Sequence[str]) -> Exhibit:
    parts = {what: _by_label(held[what], held[f"{what}_labels"]) for what in ("real", "synthetic")}
    rows = tuple(
        Row(class_name(label, classes) if label >= 0 else "", tuple(parts["real"].get(label, ())), tuple(drawn))
        for label, drawn in parts["synthetic"].items()
    )
    if "denoised" not in held:
        return Exhibit(site, rows, (), 0)
    steps = [int(step) for step in held["steps"]]
    way = tuple(Frame(step, thumbnail(guess)) for step, guess in zip(steps, held["denoised"], strict=True))
    return Exhibit(site, rows, way, int(held["step_count"]))


def _by_label(images: np.ndarray, labels: np.ndarray) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for image, label in zip(images, labels.astype(np.int64), strict=True):
        found.setdefault(int(label), []).append(thumbnail(image))
    return found
