"""Gallery of a site for its report: features of its images, and nearest neighbours of a few of them.

Like the sample images it stays in the site's own folder; nothing of it is sent.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.models.features import embed, evenly_spaced
from fedcore.site.figure_files import FeatureGalleryFile
from fedcore.site.figures import SIDE, Arrays, keep, thumbnails
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer


@dataclass(frozen=True)
class Gallery:
    """Writes the gallery of each site; the fields limit its size.

    Arrays in the file: `features` (n, d) float16 of length 1 with `labels` (n,), class indices or -1; a few of
    these images as `queries` (q, c, h, w) with `query_labels`; their `neighbours` (q, k, c, h, w) by cosine among
    the training images with `neighbour_labels` (q, k) and `cosines` (q, k), nearest first. Pixels are uint8, of
    a volume the middle slice. `encoder` is a checksum: features of encoders that differ cannot be compared.
    """

    max_features: int = 200
    """Maximum number of features: of the test images, or of the training images if there are no test images."""
    max_candidates: int = 500
    """Maximum number of training images in which neighbours are searched."""
    queries: int = 4
    neighbours: int = 5
    max_side: int = SIDE
    """Maximum length of the longer side of a saved image, in pixels."""

    @property
    def what(self) -> str:
        return "gallery"

    def make(self, site: Site, local: LocalTrainer) -> None:
        """Writes the gallery of a site, by the encoder that the module has there."""
        with local.measuring() as device:
            arrays = self.arrays(local.module.encoder, site.images, site.test, device)
        keep(site, FeatureGalleryFile.NAME, arrays)

    def arrays(self, encoder: Any, train: Images, test: Images | None, device: torch.device) -> Arrays:
        """Raises Refused if the features are not finite."""
        split = test if test is not None and len(test) else train
        images = split.take(evenly_spaced(len(split), self.max_features))
        candidates = train.take(evenly_spaced(len(train), self.max_candidates))
        features = _normalised_features(encoder, images, device)
        queries = _queries_of_all_classes(images.labels, self.queries)
        cosines = features[queries] @ _normalised_features(encoder, candidates, device).T
        # Slices of one volume are alike with any encoder: neighbours are of other patients.
        cosines[_same_patient(images, queries, candidates)] = -torch.inf
        nearest = cosines.topk(min(self.neighbours, len(candidates)), dim=1)
        found = nearest.values.isfinite().all(0)  # a site with one patient has no neighbours
        neighbours = nearest.indices[:, found]
        return FeatureGalleryFile(
            features=features.half().numpy(), labels=images.labels.numpy(), queries=self._pixels(images, queries),
            query_labels=images.labels[queries].numpy(),
            neighbours=np.stack([self._pixels(candidates, row) for row in neighbours]),
            neighbour_labels=candidates.labels[neighbours].numpy(), cosines=nearest.values[:, found].half().numpy(),
            encoder_checksum=np.array(_checksum(encoder)),
        ).arrays()  # fmt: skip

    def _pixels(self, images: Images, indices: Int[Tensor, "n"]) -> UInt8[np.ndarray, "n c h w"]:
        if not len(indices):
            return np.zeros((0, images.channels, 1, 1), np.uint8)
        return thumbnails(images.batch(indices), self.max_side)


def _normalised_features(encoder: Any, images: Images, device: torch.device) -> Float[Tensor, "n d"]:
    features, _ = embed(encoder, images, len(images), device, batch=64)
    if not features.isfinite().all():
        raise Refused("the encoder's features are not finite")
    return normalize(features, dim=1)


def _queries_of_all_classes(labels: Int[Tensor, "n"], count: int) -> Int[Tensor, "q"]:
    """Indices at even steps through the images sorted by label, so that a large class does not take all queries."""
    order = labels.argsort(stable=True)
    if len(order) <= count:
        return order
    return order[torch.linspace(0, len(order) - 1, count + 2)[1:-1].long()]


def _same_patient(images: Images, queries: Int[Tensor, "q"], candidates: Images) -> Bool[Tensor, "q m"]:
    query_patients, patients = torch.from_numpy(images.patients)[queries], torch.from_numpy(candidates.patients)
    return query_patients[:, None] == patients[None]


def _checksum(encoder: Any) -> int:
    checksum = 0
    for tensor in encoder.state_dict().values():
        checksum = zlib.crc32(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data, checksum)
    return checksum
