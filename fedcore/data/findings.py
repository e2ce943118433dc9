"""Several findings per image in one label cell, such as `Effusion|Mass` in NIH ChestX-ray14 (Wang et al. 2017,
arXiv 1705.02315).

Pretraining, partitions and generators take such a cell as the name of one class, a set of findings. A multi-label
classifier splits the sets here. An empty cell is unlabelled, and so is a word for a missing value (`nan`, `N/A`; see
`fedcore.data.manifest.cells`). An image that was read and has no finding has the label `No Finding`, or `none`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.errors import InputErrors

SEPARATOR = "|"
NO_FINDING = "No Finding"
_NO_FINDING_WORDS = ("no finding", "no findings", "none")
"""Words for no finding, in any case. It is not a finding of its own, since it follows from the others."""


def is_no_finding(name: str) -> bool:
    """Whether a class name means that there is no finding."""
    return name.lower() in _NO_FINDING_WORDS


def normalise_label(cell: str) -> str:
    """The cell with each finding once and sorted, so that a set has one name; a cell of one class is unchanged, but for
    `No Finding`, whose case and number do not matter."""
    if SEPARATOR in cell:
        cell = SEPARATOR.join(sorted({name.strip() for name in cell.split(SEPARATOR)} - {""}))
    return NO_FINDING if cell.lower() in _NO_FINDING_WORDS[:2] else cell


def is_multi_label(classes: Sequence[str]) -> bool:
    """Whether some class is a set of several findings."""
    return any(SEPARATOR in name for name in classes)


def findings_of(classes: Sequence[str]) -> tuple[str, ...]:
    """The findings in the classes, each of which is a set of them.

    Raises:
        InputErrors: A set contains `No Finding` and a finding.
    """
    if both := [name for name in classes if SEPARATOR in name and any(map(is_no_finding, name.split(SEPARATOR)))]:
        errors = [f"'{name}' contains a finding and a word for no finding" for name in both]
        raise InputErrors("labels", errors, "Remove one of them from the label cells.")
    return tuple(sorted({one for name in classes if not is_no_finding(name) for one in name.split(SEPARATOR)}))


def with_findings(cohort: Cohort, names: Sequence[str]) -> Cohort:
    """The cohort with `names` for classes, and with a column for each in the `findings` of every image.

    Raises:
        InputErrors: Its images have findings that are not among the names.
    """
    unknown = [name for name in findings_of(cohort.classes) if name not in names]
    if unknown:
        raise InputErrors("labels", [f"'{name}' is none of {', '.join(names)}" for name in unknown])
    sets = [set(name.split(SEPARATOR)) for name in cohort.classes]
    table = torch.tensor([[name in found for name in names] for found in [*sets, set()]], dtype=torch.uint8)
    return replace(cohort, classes=tuple(names), sites={s: _with_table(i, table) for s, i in cohort.sites.items()})


def _with_table(images: Images, table: UInt8[Tensor, "sets k"]) -> Images:
    """The last row of the table stands for unlabelled images, whose findings are not used."""
    added = images.added and replace(images.added, images=_with_table(images.added.images, table))
    return replace(images, findings=table[images.labels], added=added)
