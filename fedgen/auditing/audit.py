"""The audit of a synthetic set at one site: the site compares the set with its own images and sends figures, and one
yes or no per image, but no image.

For its own page the site keeps the nearest pairs of images (`fedgen.auditing.nearest_pairs`).

Copies and membership are examined by pixels and, with an encoder, by features; of membership the worse figure counts.
The images that the site held out from training show how near images are without copying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, Weights
from fedcore.messages.reveals import FEATURES, SAMPLES, STATISTICS, WEIGHTS
from fedcore.messages.round import Round
from fedcore.models.features import embed, evenly_spaced
from fedcore.site.figure_files import NearestPairsFile
from fedcore.site.figures import keep
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.auditing.diversity import PAIR_METRICS, PAIRS, pair_similarities
from fedgen.auditing.encoder import FeatureExtractor, encoder_of, misfit
from fedgen.auditing.membership import (
    MIN_HELD_OUT_FOR_TPR,
    feature_vectors,
    membership_attack,
    pixel_vectors,
    worst,
)
from fedgen.auditing.moments import Moments
from fedgen.auditing.nearest_pairs import Comparison, nearest_pairs
from fedgen.auditing.quality import QUALITY_METRICS, FeatureSet, quality_metrics
from fedgen.copies.copies import (
    MIN_HELD_OUT,
    NEIGHBOURS,
    PixelComparisons,
    detect_copies,
    detect_copies_by_any,
    nearest_by_features,
)
from fedgen.copies.matching import at_search_size
from fedgen.generator import UNCONDITIONED, Conditions

BATCH = 256
COUNTS = ("training_images", "held_out_images")
COPIES = tuple(f"{of}copies_by_{name}" for of in ("", "held_out_") for name in ("pixels", "features"))
MEMBERSHIP = ("membership_auc_by_pixels", "membership_auc_by_features", "membership_auc", "membership_tpr")


@dataclass(frozen=True)
class AuditRequest(Message):
    """The synthetic set and an encoder, as they are sent to every site.

    Its images may include copies of other sites' patients: that is what the audit examines. Sites that trained the
    generator together hold its weights and could generate the same images. Where each site has its own generator
    (`fedgen.oneshot.joint_generator`, `fedgen.oneshot.invert`), the images are new to the other sites; so let each site
    first audit a set of its own images alone.
    """

    images: Float[Tensor, "n c *space"] = field(metadata=SAMPLES)
    """Synthetic images, in [-1, 1]."""
    features: Float[Tensor, "n d"] = field(metadata=FEATURES)
    """Of the encoder; d = 0 without one."""
    site_styles: Int[Tensor, " n"] = field(metadata=STATISTICS)
    """The site whose style each image was generated in, by the generator's numbers; -1 for none."""
    labels: Int[Tensor, " n"] = field(metadata=STATISTICS)
    """The class each image was generated for, by the run's numbers; -1 for none."""
    numbers: Int[Tensor, " n"] = field(metadata=STATISTICS)
    """Of the images in their set."""
    description: str = field(metadata=WEIGHTS)
    """Of the encoder, see `fedgen.auditing.encoder.encoder_of`; empty without one."""
    encoder: Weights
    set: str = field(metadata=WEIGHTS)
    """Digest of the set."""
    generator: str = field(metadata=WEIGHTS)
    """Digest of its generator."""


@dataclass(frozen=True)
class AuditAnswer(Message):
    """What a site sends in addition to its metrics."""

    copies: Bool[Tensor, "comparisons n"] = field(metadata=FEATURES)
    """Which synthetic images are copies of training images: by pixels, and by features if there are any. A yes or no
    per image: a sender who includes the image of a patient learns whether it was trained on."""
    training: Moments
    """Of the features of the training images, by class; without an encoder of no features."""
    held_out: Moments
    """The same of the held-out images: how far other patients of this site are from the training images."""


@dataclass(frozen=True)
class Audit:
    """What every site computes. Figures for which there are too few images are missing."""

    metric_names = (*COUNTS, *COPIES, *MEMBERSHIP, *QUALITY_METRICS, *PAIR_METRICS)

    conditions: Conditions
    deviations: float = 5.0
    """Of `fedgen.copies.copies.detect_copies`: with more of them fewer images are copies."""

    def visit(self, site: Site, down: AuditRequest, local: LocalTrainer, turn: Round) -> Contribution[AuditAnswer]:
        """Raises Refused where the encoder cannot be built, or does not fit the images."""
        own = LocalTrainer(FeatureExtractor(_encoder(down, site.images)), (), local.visit)
        site = replace(site, images=site.images.with_all_labels())
        with own.measuring() as device:
            encoder, width = own.module.encoder, down.features.shape[1]
            training, held_out = (_prepared(images, encoder, width, device) for images in (site.images, site.test))
        found = self._comparisons(down, training, held_out)
        if site.folder is not None:
            keep(
                site,
                NearestPairsFile.NAME,
                nearest_pairs(found, down.images, down.numbers, site.images.batch, down.set),
            )
        metrics = {"training_images": float(len(training.labels)), "held_out_images": float(len(held_out.labels))}
        metrics |= _copy_metrics(found) | _membership_metrics(down, training, held_out)
        metrics |= self._quality_metrics(site, down, training, held_out)
        classes = len(self.conditions.classes)
        moments = [Moments.by_class(part.features, part.labels, classes) for part in (training, held_out)]
        return Contribution(site.name, AuditAnswer(_copies(found, down), *moments), site.size, metrics)

    def _comparisons(self, down: AuditRequest, training: _Prepared, held_out: _Prepared) -> dict[str, Comparison]:
        """By pixels and by features; empty where there are too few images or patients for a decision."""
        if len(held_out.labels) < MIN_HELD_OUT or len(training.patients.unique()) <= NEIGHBOURS:
            return {}
        compare = PixelComparisons.fit(training.pixels, training.patients)
        synthetic = torch.cat([at_search_size(part) for part in down.images.split(BATCH)])
        by_pixels = detect_copies_by_any(compare(synthetic), compare.held_out(held_out.pixels), self.deviations)
        found = {"pixels": Comparison(*by_pixels)}
        if down.features.shape[1]:
            nearest, others = (
                nearest_by_features(features, training.features, training.patients)
                for features in (down.features, held_out.features)
            )
            copies = detect_copies(nearest.ratio, others.ratio, self.deviations)
            found["features"] = Comparison(nearest, others, copies)
        return found

    def _quality_metrics(
        self, site: Site, down: AuditRequest, training: _Prepared, held_out: _Prepared
    ) -> dict[str, float]:
        """Of the images in the style of this site, next to as many of its held-out images."""
        own = in_style_of(down.site_styles, style_of(self.conditions, site.name))
        synthetic = FeatureSet(down.features[own], down.labels[own])
        metrics = quality_metrics(training.feature_set, held_out.feature_set, synthetic)
        some = evenly_spaced(site.size, 4 * PAIRS)
        real = site.images.batch(some), site.images.labels[some]
        return metrics | pair_similarities(down.images[own], down.labels[own], *real)


def style_of(conditions: Conditions, site: str) -> int:
    """The number of a site's style; a site that joined after the run had begun has none."""
    return conditions.site_index(site) if site in conditions.sites else UNCONDITIONED


def in_style_of(site_styles: Int[Tensor, " n"], site: int) -> Bool[Tensor, " n"]:
    """Which synthetic images are in the style of a site, or of no particular site."""
    return (site_styles == site) | (site_styles == UNCONDITIONED)


@dataclass(frozen=True)
class _Prepared:
    """A part of a site's images, as the comparisons need them."""

    pixels: Float[Tensor, "n c *small"]
    """For copies."""
    vectors: Float[Tensor, "n p"]
    """For membership."""
    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    patients: Int[Tensor, " n"]

    @property
    def feature_set(self) -> FeatureSet:
        return FeatureSet(self.features, self.labels)


def _encoder(down: AuditRequest, images: Images) -> nn.Module:
    """That of a request, built at this site."""
    try:
        encoder = encoder_of(down.description, down.encoder.tensors)
    except ValueError as e:
        raise Refused(
            "the encoder of the audit cannot be built from its description and weights; install the same version on "
            "both sides", details=str(e)
        ) from e  # fmt: skip
    if wrong := misfit(encoder, len(images.space), images.channels):
        raise Refused(f"the encoder of the audit does not fit the images: {wrong}")
    if encoder.width != down.features.shape[1]:
        raise Refused(f"features have {down.features.shape[1]} numbers, those of the encoder {encoder.width}")
    return encoder


def _prepared(images: Images | None, encoder: Any, width: int, device: torch.device) -> _Prepared:
    """Reads the images batch by batch: a site may have more images than memory."""
    if images is None or not len(images):
        none = torch.empty(0, dtype=torch.int64)
        return _Prepared(torch.empty(0, 1, 1), torch.empty(0, 1), torch.empty(0, width), none, none)
    pixels, vectors = [], []
    for start in range(0, len(images), BATCH):
        part = images.batch(range(start, min(start + BATCH, len(images))))
        pixels.append(at_search_size(part))
        vectors.append(pixel_vectors(part))
    features, labels = embed(encoder, images, len(images), device)
    return _Prepared(torch.cat(pixels), torch.cat(vectors), features, labels, torch.from_numpy(images.patients))


def _copies(found: Mapping[str, Comparison], down: AuditRequest) -> Bool[Tensor, "comparisons n"]:
    """A row for each possible comparison; where one could not be made, no image is a copy."""
    names = ("pixels", "features") if down.features.shape[1] else ("pixels",)
    none = torch.zeros(len(down.images), dtype=torch.bool)
    return torch.stack([found[name].copies.is_copy if name in found else none for name in names])


def _copy_metrics(found: Mapping[str, Comparison]) -> dict[str, float]:
    copies = {f"copies_by_{name}": float(one.copies.is_copy.sum()) for name, one in found.items()}
    return copies | {f"held_out_copies_by_{name}": one.copies.held_out_fraction for name, one in found.items()}


def _membership_metrics(down: AuditRequest, training: _Prepared, held_out: _Prepared) -> dict[str, float]:
    """By pixels, by features, and the worse of both."""
    if len(held_out.labels) < MIN_HELD_OUT:
        return {}
    vectors = torch.cat([pixel_vectors(part) for part in down.images.split(BATCH)])
    attacks = {"pixels": membership_attack(vectors, training.vectors, held_out.vectors)}
    if down.features.shape[1]:
        attacks["features"] = membership_attack(
            *(feature_vectors(part.features) for part in (down, training, held_out))
        )
    metrics = {f"membership_auc_by_{name}": attack.auc for name, attack in attacks.items()}
    most = worst(attacks.values())
    metrics["membership_auc"] = most.auc
    if len(held_out.labels) >= MIN_HELD_OUT_FOR_TPR:
        metrics["membership_tpr"] = most.tpr_at_1_percent_fpr
    return metrics
