"""Scores of a segmenter at every site and pooled, asked through the same border as everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from fedcore.border import Policy
from fedcore.data.images import Images
from fedcore.errors import InputError, Refused
from fedcore.grid import grid
from fedcore.local import LocalTrainer, personal
from fedcore.message import STATISTICS, Contribution, Message, Weights
from fedcore.site import Round, Site
from fedcore.transport import InProcess
from fedtune.evaluate import POOLED, Table, answers
from fedtune.overlap import Sums, image_scores, overlap_scores, summed
from fedtune.tell import format_score, rounded


@dataclass(frozen=True)
class SiteSums(Message):
    """What a site sends: sums over its images and over bootstrap draws of its patients (see `fedtune.overlap`)."""

    total: Float[Tensor, "r 3 k"] = field(metadata=STATISTICS)
    images: Int[Tensor, "r 3 k"] = field(metadata=STATISTICS)


@dataclass(frozen=True)
class EvaluateMasks:
    """Asks a site how the segmenter does on its test images, on the grid of `data.size`, distances in mm."""

    structures: int
    tolerance: float
    draws: int

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[SiteSums]:
        local.load(down.tensors | personal(site.memory))
        assert site.test is not None, "only sites with test images are asked"
        with local.measuring() as device:
            values = torch.stack([self._of_image(site.test, at, local, device) for at in range(len(site.test))])
        patients = torch.from_numpy(site.test.patients)
        sums = summed(values, patients, self.draws, turn.seed_of(site.name, "bootstrap"))
        return Contribution(site.name, SiteSums(sums.total, sums.images), len(site.test), {})

    def _of_image(self, images: Images, at: int, local: LocalTrainer, device: torch.device) -> Float[Tensor, "3 k"]:
        guess = local.module(images.batch([at]).to(device)).argmax(1)[0].cpu()
        return image_scores(guess, images.mask_batch([at])[0], self.structures, spacing(images, at), self.tolerance)


def spacing(images: Images, at: int) -> tuple[float, ...]:
    """In mm; where a file does not say it, pixels are the unit."""
    if images.spacing is None or np.isnan(images.spacing[at]).any():
        return (1.0,) * len(images.space)
    return tuple(float(mm) for mm in images.spacing[at])


def evaluate_masks(
    transport: InProcess, structures: int, tolerance: float, seed: int, draws: int = 200
) -> tuple[Table, dict[str, int]]:
    """Scores of the module that `transport.local` holds, per site and pooled, and the test images of each.

    Raises:
        InputError: No site has test images with masks, or a site may not send its sums.
    """
    given = answers(transport, EvaluateMasks(structures, tolerance, draws), seed)
    sums = {a.site: Sums(a.message.total, a.message.images) for a in given}
    first, *rest = sums.values()
    sums[POOLED] = sum(rest, start=first)
    images = {a.site: a.examples for a in given}
    return {site: overlap_scores(each) for site, each in sums.items()}, images | {POOLED: sum(images.values())}


def require_summable(policy: Policy) -> None:
    """Raises InputError, before anything is trained, if sites may not send what scores are made of."""
    try:
        policy.check(SiteSums(torch.zeros(1, 3, 1, dtype=torch.float64), torch.zeros(1, 3, 1, dtype=torch.int32)))
    except Refused as e:
        raise InputError(f"no score could be computed: {e}") from e


def as_json(table: Table, images: Mapping[str, int]) -> dict[str, Any]:
    """The layout of `scores.json`, as that of classifiers."""
    rows = {
        site: {name: rounded(score) for name, score in row.items()} | {"images": images[site]}
        for site, row in table.items()
    }
    return {"sites": {site: row for site, row in rows.items() if site != POOLED}, POOLED: rows[POOLED]}


def show(table: Table, images: Mapping[str, int]) -> None:
    """The table in the terminal."""
    names = ("dice", "hd95", "surface_dice")
    rows = {site: [str(images[site]), *(format_score(row[name]) for name in names)] for site, row in table.items()}
    Console().print(grid("site", ("images", "Dice", "HD95", "surface Dice"), rows, standing_out=POOLED))
