"""Real images of each site next to synthetic ones of its style, from the files that sites kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.report.read.site_files import UNREADABLE, figure_files
from fedcore.report.sections.feature_gallery import class_name
from fedcore.report.thumbnails import thumbnail
from fedcore.site.figure_files import GeneratorSamplesFile

_BYTES = 1_800_000  # of the page's 5 MB


@dataclass(frozen=True)
class ClassRow:
    """Images of one class; `real` and `synthetic` are data URIs."""

    label: str
    real: tuple[str, ...]
    synthetic: tuple[str, ...]


@dataclass(frozen=True)
class DenoisingStep:
    """The model's estimate of the image at one sampling step."""

    step: int
    picture: str


@dataclass(frozen=True)
class SiteSamples:
    """`denoising` is empty for a generator of one step, else it shows some of `steps` steps."""

    site: str
    rows: tuple[ClassRow, ...]
    denoising: tuple[DenoisingStep, ...]
    steps: int

    @property
    def columns(self) -> int:
        """The largest number of images in a row."""
        return max((len(images) for row in self.rows for images in (row.real, row.synthetic)), default=1)

    @property
    def size(self) -> int:
        pictures = [picture for row in self.rows for picture in (*row.real, *row.synthetic)]
        return sum(map(len, pictures)) + sum(len(one.picture) for one in self.denoising)


def read_samples(
    folder: Path, sites: Iterable[str], classes: Sequence[str], gaps: list[str]
) -> tuple[SiteSamples, ...]:
    """Of the sites that kept a file, within the page's bytes; what is missing is noted in `gaps`."""
    files = figure_files(folder, sites, GeneratorSamplesFile.NAME)
    found: list[SiteSamples] = []
    for at, (site, path) in enumerate(files.items()):
        try:
            samples = _samples(site, GeneratorSamplesFile.load(path), classes)
        except UNREADABLE:
            gaps.append(f"The synthetic images of {site} cannot be read.")
            continue
        if samples.size + sum(one.size for one in found) > _BYTES:
            gaps.append(f"The synthetic images of {len(files) - at} sites are left out to keep this page small.")
            break
        found.append(samples)
    return tuple(found)


def _samples(site: str, file: GeneratorSamplesFile, classes: Sequence[str]) -> SiteSamples:
    real, synthetic = _by_label(file.real, file.real_labels), _by_label(file.synthetic, file.synthetic_labels)
    rows = tuple(
        ClassRow(class_name(label, classes) if label >= 0 else "", tuple(real.get(label, ())), tuple(images))
        for label, images in synthetic.items()
    )
    if file.denoised is None or file.steps is None or file.step_count is None:
        return SiteSamples(site, rows, (), 0)
    denoising = tuple(
        DenoisingStep(int(step), thumbnail(image)) for step, image in zip(file.steps, file.denoised, strict=True)
    )
    return SiteSamples(site, rows, denoising, int(file.step_count))


def _by_label(images: np.ndarray, labels: np.ndarray) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for image, label in zip(images, labels, strict=True):
        found.setdefault(int(label), []).append(thumbnail(image))
    return found
