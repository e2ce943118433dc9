"""Scores of a segmenter at every site and pooled, from sums that sites send under their policies."""

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
from fedcore.data.mask_classes import UNLABELED
from fedcore.data.preprocess.geometry import Spacing
from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, Weights
from fedcore.messages.reveals import STATISTICS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.privacy.policy import Policy
from fedcore.report.units import measured_on
from fedcore.server.sites import Sites
from fedcore.site.site import Site
from fedcore.tables import terminal, text_table
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import personal_weights
from fedtune.evaluation.classification import POOLED, Table, evaluate_sites, too_few
from fedtune.evaluation.native_grid import MaskPair, NativeFiles
from fedtune.evaluation.scores import Score
from fedtune.evaluation.scores_file import format_score, score_to_json, withheld_notes
from fedtune.evaluation.segmentation_metrics import (
    MetricSums,
    MissingStructure,
    count_images,
    image_metrics,
    score_sites,
    sum_by_patient,
    withheld_structures,
)


@dataclass(frozen=True)
class SiteSums(Message):
    """Sums of a site over its patients, without structures of too few patients."""

    sums: MetricSums
    withheld: Bool[Tensor, " k"] = field(metadata=STATISTICS)
    """Structures that some patients have, but fewer than `policy.min_patients`."""


@dataclass(frozen=True)
class EvaluateSegmenter:
    """Scores the predictions on a site's test images, by the site's personal segmenter if it has one."""

    num_classes: int
    tolerance: float
    files: NativeFiles | None = None
    """Images are scored on the grid of these files; None: on that of `data.size`."""
    missing: MissingStructure = "omit"
    """The distance of a structure that mask or prediction lacks: undefined, or the image's diagonal."""

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[SiteSums]:
        local.load(down.tensors | personal_weights(site.memory))
        assert site.test is not None, "only sites with test images are visited"
        indices = self.files.indices(site.test) if self.files else np.arange(len(site.test))
        mask_pair = self.files.mask_pair if self.files else _resized_mask_pair
        with local.measuring():
            pairs = (mask_pair(local.module, site.test, index) for index in indices.tolist())
            values = torch.stack([self._metrics(*pair) for pair in pairs])
        patients, least = torch.from_numpy(site.test.patients[indices]), site.policy.min_patients
        sums = sum_by_patient(values, patients, least)
        counted = len(indices) if sums.images.any() else 0
        return Contribution(site.name, SiteSums(sums, withheld_structures(values, patients, least)), counted)

    def _metrics(self, predicted: Tensor, truth: Tensor, mm: Spacing) -> Float[Tensor, "3 k"]:
        """Raises Refused at a structure that was lost when masks were resized, and so is unknown to the segmenter."""
        if (unknown := truth[(truth >= self.num_classes) & (truth != UNLABELED)]).numel():
            raise Refused(
                f"structure {int(unknown[0])} in its masks is too small for data.size, so it was not learned; enlarge "
                "data.size"
            )
        return image_metrics(predicted, truth, mm, self.num_classes, self.tolerance, self.missing)


def _resized_mask_pair(network: nn.Module, images: Images, index: int) -> MaskPair:
    predicted = network(images.batch([index]).to(next(network.parameters()).device)).argmax(1)[0].cpu()
    return predicted, images.mask_batch([index])[0], pixel_spacing(images, index)


def pixel_spacing(images: Images, index: int) -> tuple[float, ...]:
    """In mm; 1 where a file does not state it."""
    if images.spacing is None or np.isnan(images.spacing[index]).any():
        return (1.0,) * len(images.space)
    return tuple(float(mm) for mm in images.spacing[index])


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of each site and pooled, and the grid and unit of measurement."""

    table: Table
    images: Mapping[str, int]
    """Test images (on the grid of the files, volumes); 0 where a site has too few patients of every structure."""
    withheld: Mapping[str, tuple[int, ...]]
    """Structures that a site did not count because fewer than `min_patients` patients have them."""
    min_patients: int
    distance_unit: str
    grid: str
    """`files`, or the sides of the resized images in pixels."""
    image_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By site, the number of images behind the scores (`fedtune.evaluation.segmentation_metrics.count_images`)."""
    missing: MissingStructure = "omit"


def evaluate_segmenter(
    sites: Sites, weights: Tensors, seed: int, policy: Policy, grid: str, unit: str, missing: MissingStructure = "omit"
) -> SegmentationScores:
    """Scores of a segmenter, per site and pooled.

    Args:
        sites: The sites, which know the word `evaluate` (`EvaluateSegmenter`).
        weights: Of the segmenter.
        seed: Seed of the evaluation round.
        policy: The policy whose `min_patients` the notes name.
        grid: `files`, or the sides of the resized images in pixels.
        unit: Of distances.
        missing: HD95 where mask or prediction lacks a structure.

    Raises:
        InputError: No site has test images with masks of enough patients, or a site's policy forbids sending sums, or a
            site cannot read its files.
    """
    results = evaluate_sites(sites, weights, seed, SiteSums)
    images = {r.site: r.examples for r in results}
    if not any(images.values()):
        raise too_few(policy, " with a structure")
    images[POOLED] = sum(images.values())
    sums = {r.site: [r.message.sums] for r in results} | {POOLED: [r.message.sums for r in results]}
    table = {site: score_sites(each) for site, each in sums.items()}
    counts = {site: count_images(each) for site, each in sums.items()}
    withheld = {r.site: tuple((r.message.withheld.nonzero().flatten() + 1).tolist()) for r in results}
    return SegmentationScores(table, images, withheld, policy.min_patients, unit, grid, counts, missing)


def distance_unit(tests: Mapping[str, Images]) -> str:
    """Unit of distances in test images: mm where all files state the pixel size."""
    unknown, count = (sum(f(images) for images in tests.values()) for f in (attrgetter("without_spacing"), len))
    return "mm" if not unknown else "pixels" if unknown == count else "mm or pixels"


def require_sums_allowed(policy: Policy) -> None:
    """Raises InputError, before training, if the policy forbids sending sums."""
    try:
        policy.foresee(SiteSums)
    except InputError as e:
        raise InputError(f"no score could be computed: {e}") from e


def to_json(scores: SegmentationScores) -> dict[str, Any]:
    """The content of `scores.json`, laid out as that of classifiers."""
    rows: dict[str, dict[str, Any]] = {
        site: {name: score_to_json(score) for name, score in row.items()}
        | {"images": scores.images[site], **scores.image_counts.get(site, {})}
        for site, row in scores.table.items()
    }
    for site, note in _notes(scores).items():
        rows[site] |= {"note": note}
    sites = {site: row for site, row in rows.items() if site != POOLED}
    settings = {"grid": scores.grid, "distance_unit": scores.distance_unit, "hd95_missing": scores.missing}
    return settings | {"sites": sites, POOLED: rows[POOLED]}


def print_scores(scores: SegmentationScores) -> None:
    """Prints a table of at most 80 columns, and notes."""
    rows = {
        site: [str(scores.images[site]), format_score(row["dice"]), format_distance(row["hd95"]),
               format_score(row["surface_dice"])]
        for site, row in scores.table.items()
    }  # fmt: skip
    titles = ("images", "Dice", f"HD95 ({scores.distance_unit})", "surface Dice")
    console = terminal()
    console.print(text_table("site", titles, rows, highlight=POOLED))
    console.print(measured_on(scores.grid))
    for note in (*(f"{site}: {note}" for site, note in _notes(scores).items()), *_hints(scores.table[POOLED])):
        console.print(note)


def _hints(pooled: Mapping[str, Score]) -> Iterator[str]:
    """Explanations of scores that look like an error."""
    if math.isnan(pooled["hd95"].value):
        yield "HD95 -: no distance exists, because no image has a structure both in its mask and in the prediction"
    if pooled["dice"].value < 0.0005:
        yield (
            "Dice 0.000: nothing was predicted where the masks are; train longer (rounds.count) or with a higher "
            "learning rate (segmenter.init_args.optimizer.init_args.lr)"
        )


def _notes(scores: SegmentationScores) -> dict[str, str]:
    names = {site: [f"structure {k}" for k in withheld] for site, withheld in scores.withheld.items()}
    notes = withheld_notes(names, scores.images, scores.min_patients)
    return notes | {
        site: "; ".join([*([notes[site]] if site in notes else []), f"HD95 {note}"])
        for site, counts in scores.image_counts.items()
        if (note := _hd95_note(counts, scores.missing))
    }


def _hd95_note(counts: Mapping[str, int], missing: MissingStructure) -> str:
    """The images behind a mean distance; empty if these are all images with the structure."""
    with_structure, compared = counts["dice_images"], counts["hd95_images"]
    if missing == "diagonal":
        return "takes the image's diagonal where mask or prediction lacks a structure"
    is_multi_label = any(name.startswith("dice_images_") for name in counts)
    what = "structures in images" if is_multi_label else "images"
    return f"of {compared} of {with_structure} {what} (mask and prediction have it)" * (compared < with_structure)


def format_distance(score: Score) -> str:
    if math.isnan(score.value):
        return "-"
    return f"{score.value:.1f}" + ("" if math.isnan(score.low) else f" ({score.low:.2g}-{score.high:.2g})")
