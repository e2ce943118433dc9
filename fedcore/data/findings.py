"""Several findings an image, in one label cell: `Effusion|Mass`, as NIH ChestX-ray14 writes them (Wang et al. 2017,
arXiv 1705.02315).

Everywhere else such a cell is the name of one class, a set of findings: pretraining, partitions and generators need
know no more. A classifier of findings takes the sets apart here. An empty cell stays unlabelled, and so does a word for
a missing value (`nan`, `N/A`; see `fedcore.data.manifest.cells`); that somebody looked and found nothing is said by the
words `No Finding`, or by `none`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from fedcore.data.dataset import Cohort, Images
from fedcore.errors import InputErrors

SEPARATOR = "|"
NO_FINDING = "No Finding"
_NOTHING = ("no finding", "no findings", "none")
"""What stands for no finding, in any case. It is no finding of its own, which the others would already tell."""


def says_nothing(name: str) -> bool:
    """Whether a class stands for no finding."""
    return name.lower() in _NOTHING


def canonical(cell: str) -> str:
    """The cell with each finding once, in order, so that a set has one name; a cell of one class is as it was, but for
    `No Finding`, of which case and number do not matter."""
    if SEPARATOR in cell:
        cell = SEPARATOR.join(sorted({name.strip() for name in cell.split(SEPARATOR)} - {""}))
    return NO_FINDING if cell.lower() in _NOTHING[:2] else cell


def several(classes: Sequence[str]) -> bool:
    """Whether images of these classes may have several findings."""
    return any(SEPARATOR in name for name in classes)


def findings_of(classes: Sequence[str]) -> tuple[str, ...]:
    """The findings that the classes are sets of.

    Raises:
        InputErrors: A set holds `No Finding` and a finding.
    """
    if both := [name for name in classes if SEPARATOR in name and any(map(says_nothing, name.split(SEPARATOR)))]:
        faults = [f"'{name}' says that there is a finding and that there is none" for name in both]
        raise InputErrors("labels", faults, "Take one of them out of the label cells.")
    return tuple(sorted({one for name in classes if not says_nothing(name) for one in name.split(SEPARATOR)}))


def with_findings(cohort: Cohort, names: Sequence[str]) -> Cohort:
    """The cohort with `names` for classes, and a column of each in every image's `findings`.

    Raises:
        InputErrors: Its images have findings that are not among the names.
    """
    unknown = [name for name in findings_of(cohort.classes) if name not in names]
    if unknown:
        raise InputErrors("labels", [f"'{name}' is none of {', '.join(names)}" for name in unknown])
    sets = [set(name.split(SEPARATOR)) for name in cohort.classes]
    table = torch.tensor([[name in found for name in names] for found in [*sets, set()]], dtype=torch.uint8)
    return replace(cohort, classes=tuple(names), sites={s: _told(i, table) for s, i in cohort.sites.items()})


def _told(images: Images, table: UInt8[Tensor, "sets k"]) -> Images:
    """The last row of the table is for the unlabelled, whom nobody asks."""
    company = images.companions
    others = None if company is None else replace(company, images=_told(company.images, table))
    return replace(images, findings=table[images.labels], companions=others)
