"""Scores of a segmenter at every site and pooled, asked through the same border as everything else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fedcore.data.dataset import Images
from fedcore.data.preprocess.decode import UNLABELED
from fedcore.data.preprocess.geometry import Spacing
from fedcore.errors import InputError, Refused
from fedcore.messages.message import STATISTICS, Contribution, Message, Weights
from fedcore.privacy.policy import Policy
from fedcore.report.units import measured_on
from fedcore.site.site import Round, Site
from fedcore.tables import grid, terminal
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import personal_weights
from fedcore.transport.in_process import InProcess
from fedtune.evaluation.classification import POOLED, Table, answers, too_few
from fedtune.evaluation.native_grid import Files, Sides
from fedtune.evaluation.scores import Score
from fedtune.evaluation.scores_file import format_score, left_out_notes, rounded
from fedtune.evaluation.segmentation_metrics import Missed, Sums, few, image_scores, measured, overlap_scores, summed


@dataclass(frozen=True)
class SiteSums(Message):
    """What a site sends: sums over its patients (`fedtune.evaluation.segmentation_metrics.Sums`), without what too few
    of them have."""

    sums: Sums
    withheld: Bool[Tensor, " k"] = field(metadata=STATISTICS)
    """Structures that some patients show, but fewer than `policy.min_patients`."""


@dataclass(frozen=True)
class EvaluateMasks:
    """Asks a site how the segmenter does on its test images, distances in mm."""

    structures: int
    tolerance: float
    files: Files | None = None
    """What images are scored on the grids of; None: that of `data.size`."""
    missed: Missed = "omit"
    """The distance of a structure that mask or prediction lacks: none, or the image's diagonal."""

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[SiteSums]:
        local.load(down.tensors | personal_weights(site.memory))
        assert site.test is not None, "only sites with test images are asked"
        places = self.files.places(site.test) if self.files else np.arange(len(site.test))
        sides = self.files.sides if self.files else _fitted
        with local.measuring():
            found = (sides(local.module, site.test, at) for at in places.tolist())
            values = torch.stack([self._scored(*each) for each in found])
        patients, least = torch.from_numpy(site.test.patients[places]), site.policy.min_patients
        sums = summed(values, patients, least)
        counted = len(places) if sums.images.any() else 0
        return Contribution(site.name, SiteSums(sums, few(values, patients, least)), counted)

    def _scored(self, guess: Tensor, truth: Tensor, mm: Spacing) -> Float[Tensor, "3 k"]:
        """Raises Refused at a structure that was lost where masks were fitted, and so is unknown to the segmenter."""
        if (unknown := truth[(truth >= self.structures) & (truth != UNLABELED)]).numel():
            raise Refused(
                f"structure {int(unknown[0])} in its masks is too small to be seen at data.size; enlarge that"
            )
        return image_scores(guess, truth, mm, self.structures, self.tolerance, self.missed)


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
    """Test images (or, on the grid of the files, volumes); 0 where a site has too few patients of every structure."""
    withheld: Mapping[str, tuple[int, ...]]
    """Structures that a site left out, since fewer than `least` patients show them."""
    least: int
    unit: str
    """Of distances."""
    grid: str
    """`files`, or the pixels of the fitted images' sides."""
    measured: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By site, of how many images the scores are (`fedtune.evaluation.segmentation_metrics.measured`)."""
    missed: Missed = "omit"


def evaluate_masks(
    transport: InProcess, structures: int, tolerance: float, seed: int, files: Files | None = None,
    missed: Missed = "omit",
) -> Overlaps:  # fmt: skip
    """Scores of the module that `transport.local` holds.

    Raises:
        InputError: No site has test images with masks of enough patients, or a site may not send its sums or cannot
            read its files.
    """
    given = answers(transport, EvaluateMasks(structures, tolerance, files, missed), seed)
    sums = {a.site: a.message.sums for a in given}
    images = {a.site: a.examples for a in given}
    if not any(images.values()):
        raise too_few(transport.policy, " with a structure")
    images[POOLED] = sum(images.values())
    told = {site: [each] for site, each in sums.items()} | {POOLED: list(sums.values())}
    table = {site: overlap_scores(each) for site, each in told.items()}
    counts = {site: measured(each) for site, each in told.items()}
    left_out = {a.site: tuple((a.message.withheld.nonzero().flatten() + 1).tolist()) for a in given}
    size = next(iter(transport.test.values())).space
    grid = "files" if files else " x ".join(map(str, size))
    least, unit = transport.policy.min_patients, _unit(transport.test)
    return Overlaps(table, images, left_out, least, unit, grid, counts, missed)


def _unit(tests: Mapping[str, Images]) -> str:
    unknown, count = (sum(f(images) for images in tests.values()) for f in (attrgetter("unspaced"), len))
    return "mm" if not unknown else "pixels" if unknown == count else "mm or pixels"


def require_summable(policy: Policy) -> None:
    """Raises InputError, before anything is trained, if sites may not send what scores are made of."""
    try:
        policy.foresee(SiteSums)
    except InputError as e:
        raise InputError(f"no score could be computed: {e}") from e


def as_json(found: Overlaps) -> dict[str, Any]:
    """The layout of `scores.json`, as that of classifiers."""
    rows: dict[str, dict[str, Any]] = {
        site: {name: rounded(score) for name, score in row.items()}
        | {"images": found.images[site], **found.measured.get(site, {})}
        for site, row in found.table.items()
    }
    for site, note in _notes(found).items():
        rows[site] |= {"note": note}
    sites = {site: row for site, row in rows.items() if site != POOLED}
    return {"grid": found.grid, "unit": found.unit, "hd95_missed": found.missed, "sites": sites, POOLED: rows[POOLED]}


def show(found: Overlaps) -> None:
    """The table in the terminal, of at most 80 columns."""
    rows = {
        site: [str(found.images[site]), format_score(row["dice"]), format_distance(row["hd95"]),
               format_score(row["surface_dice"])]
        for site, row in found.table.items()
    }  # fmt: skip
    titles = ("images", "Dice", f"HD95 ({found.unit})", "surface Dice")
    console = terminal()
    console.print(grid("site", titles, rows, standing_out=POOLED))
    console.print(measured_on(found.grid))
    for note in (*(f"{site}: {note}" for site, note in _notes(found).items()), *_hints(found.table[POOLED])):
        console.print(note)


def _hints(pooled: Mapping[str, Score]) -> Iterator[str]:
    """What scores that look like a mistake mean."""
    if math.isnan(pooled["hd95"].value):
        yield "HD95 -: no distance exists, because no image has a structure both in its mask and in the prediction"
    if pooled["dice"].value < 0.0005:
        yield (
            "Dice 0.000: nothing was predicted where the masks are; train longer (rounds.count) or with a higher "
            "learning rate (segmenter.init_args.optimizer.init_args.lr)"
        )


def _notes(found: Overlaps) -> dict[str, str]:
    names = {site: [f"structure {k}" for k in left_out] for site, left_out in found.withheld.items()}
    notes = left_out_notes(names, found.images, found.least)
    return notes | {
        site: "; ".join([*([notes[site]] if site in notes else []), f"HD95 {told}"])
        for site, counts in found.measured.items()
        if (told := _of_how_many(counts, found.missed))
    }


def _of_how_many(counts: Mapping[str, int], missed: Missed) -> str:
    """What must be known of a mean distance; nothing where it is of all that could be measured."""
    shown, compared = counts["dice_images"], counts["hd95_images"]
    if missed == "diagonal":
        return "takes the image's diagonal where mask or prediction lacks a structure"
    several = any(name.startswith("dice_images_") for name in counts)
    what = "structures in images" if several else "images"
    return f"of {compared} of {shown} {what} (mask and prediction show it)" if compared < shown else ""


def format_distance(score: Score) -> str:
    if math.isnan(score.value):
        return "-"
    return f"{score.value:.1f}" + ("" if math.isnan(score.low) else f" ({score.low:.2g}-{score.high:.2g})")
