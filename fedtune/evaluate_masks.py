"""Scores of a segmenter at every site and pooled, asked through the same border as everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor, nn

from fedcore.data.decode import UNLABELED
from fedcore.data.geometry import Spacing
from fedcore.data.images import Images
from fedcore.errors import InputError, Refused
from fedcore.grid import grid
from fedcore.local import LocalTrainer, personal
from fedcore.message import STATISTICS, Contribution, Message, Weights
from fedcore.policy import Policy
from fedcore.report.units import measured_on
from fedcore.site import Round, Site
from fedcore.transport import InProcess
from fedtune.evaluate import POOLED, Table, answers
from fedtune.native import Files, Sides
from fedtune.overlap import Sums, image_scores, overlap_scores, summed
from fedtune.scores import Score
from fedtune.tell import format_score, rounded


@dataclass(frozen=True)
class SiteSums(Message):
    """What a site sends: sums over its images and over bootstrap draws of its patients (see `fedtune.overlap`)."""

    total: Float[Tensor, "r 3 k"] = field(metadata=STATISTICS)
    images: Int[Tensor, "r 3 k"] = field(metadata=STATISTICS)


@dataclass(frozen=True)
class EvaluateMasks:
    """Asks a site how the segmenter does on its test images, distances in mm."""

    structures: int
    tolerance: float
    draws: int
    files: Files | None = None
    """What images are scored on the grids of; None: that of `data.size`."""

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[SiteSums]:
        local.load(down.tensors | personal(site.memory))
        assert site.test is not None, "only sites with test images are asked"
        places = self.files.places(site.test) if self.files else np.arange(len(site.test))
        sides = self.files.sides if self.files else _fitted
        with local.measuring():
            found = (sides(local.module, site.test, at) for at in places.tolist())
            values = torch.stack([self._scored(*each) for each in found])
        patients = torch.from_numpy(site.test.patients[places])
        sums = summed(values, patients, self.draws, turn.seed_of(site.name, "bootstrap"))
        return Contribution(site.name, SiteSums(sums.total, sums.images), len(places), {})

    def _scored(self, guess: Tensor, truth: Tensor, mm: Spacing) -> Float[Tensor, "3 k"]:
        """Raises Refused at a structure that was lost where masks were fitted, and so is unknown to the segmenter."""
        if (unknown := truth[(truth >= self.structures) & (truth != UNLABELED)]).numel():
            raise Refused(
                f"structure {int(unknown[0])} in its masks is too small to be seen at data.size; enlarge that"
            )
        return image_scores(guess, truth, mm, self.structures, self.tolerance)


def _fitted(network: nn.Module, images: Images, at: int) -> Sides:
    guess = network(images.batch([at]).to(next(network.parameters()).device)).argmax(1)[0].cpu()
    return guess, images.mask_batch([at])[0], spacing(images, at)


def spacing(images: Images, at: int) -> tuple[float, ...]:
    """In mm; where a file does not say it, pixels are the unit."""
    if images.spacing is None or np.isnan(images.spacing[at]).any():
        return (1.0,) * len(images.space)
    return tuple(float(mm) for mm in images.spacing[at])


@dataclass(frozen=True)
class Overlaps:
    """Scores of each site and pooled, and what they were measured on."""

    table: Table
    images: Mapping[str, int]
    """Test images (or, on the grid of the files, volumes)."""
    unit: str
    """Of distances."""
    grid: str
    """`files`, or the pixels of the fitted images' sides."""


def evaluate_masks(
    transport: InProcess, structures: int, tolerance: float, seed: int, draws: int = 200, files: Files | None = None
) -> Overlaps:
    """Scores of the module that `transport.local` holds.

    Raises:
        InputError: No site has test images with masks, or a site may not send its sums or cannot read its files.
    """
    given = answers(transport, EvaluateMasks(structures, tolerance, draws, files), seed)
    sums = {a.site: Sums(a.message.total, a.message.images) for a in given}
    first, *rest = sums.values()
    sums[POOLED] = sum(rest, start=first)
    images = {a.site: a.examples for a in given}
    images[POOLED] = sum(images.values())
    size = next(iter(transport.test.values())).space
    grid = "files" if files else " x ".join(map(str, size))
    return Overlaps({site: overlap_scores(each) for site, each in sums.items()}, images, _unit(transport.test), grid)


def _unit(tests: Mapping[str, Images]) -> str:
    unknown, count = (sum(f(images) for images in tests.values()) for f in (attrgetter("unspaced"), len))
    return "mm" if not unknown else "pixels" if unknown == count else "mm or pixels"


def require_summable(policy: Policy) -> None:
    """Raises InputError, before anything is trained, if sites may not send what scores are made of."""
    try:
        policy.check(SiteSums(torch.zeros(1, 3, 1, dtype=torch.float64), torch.zeros(1, 3, 1, dtype=torch.int32)))
    except Refused as e:
        raise InputError(f"no score could be computed: {e}") from e


def as_json(found: Overlaps) -> dict[str, Any]:
    """The layout of `scores.json`, as that of classifiers."""
    rows = {
        site: {name: rounded(score) for name, score in row.items()} | {"images": found.images[site]}
        for site, row in found.table.items()
    }
    sites = {site: row for site, row in rows.items() if site != POOLED}
    return {"grid": found.grid, "unit": found.unit, "sites": sites, POOLED: rows[POOLED]}


def show(found: Overlaps) -> None:
    """The table in the terminal, of at most 80 columns."""
    rows = {
        site: [str(found.images[site]), format_score(row["dice"]), format_distance(row["hd95"]),
               format_score(row["surface_dice"])]
        for site, row in found.table.items()
    }  # fmt: skip
    titles = ("images", "Dice", f"HD95 ({found.unit})", "surface Dice")
    Console().print(grid("site", titles, rows, standing_out=POOLED))
    print(measured_on(found.grid))


def format_distance(score: Score) -> str:
    if math.isnan(score.value):
        return "-"
    return f"{score.value:.1f}" + ("" if math.isnan(score.low) else f" ({score.low:.2g}-{score.high:.2g})")
