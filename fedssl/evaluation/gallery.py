"""What a site keeps for its own page: features of its images, and for a few of them their nearest neighbours.

Like the sample images a gallery stays in the site's own folder; nothing of it is sent.
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
from fedcore.models.features import embed
from fedcore.site.figures import SIDE, Arrays, evenly, kept_by_each, thumbnails
from fedcore.site.site import Site
from fedcore.training.site_state import personal_weights
from fedcore.transport.in_process import InProcess

FILE = "gallery.npz"


@dataclass(frozen=True)
class Gallery:
    """How much a site keeps.

    `arrays` says what: `features` (n, d) float16 of length 1 with `labels` (n,), class indices or -1; a few of
    these images as `queries` (q, c, h, w) with `query_labels`; their `neighbours` (q, k, c, h, w) by cosine among
    the training images with `neighbour_labels` (q, k) and `cosines` (q, k), nearest first. Pixels are uint8, of
    a volume the middle slice. `encoder` is a checksum: features of encoders that differ cannot be compared.
    """

    images: int = 200
    """Features kept at most: of the test images, or of the training images where there are none."""
    searched: int = 500
    """Training images at most among which neighbours are sought."""
    queries: int = 4
    neighbours: int = 5
    side: int = SIDE
    """Pixels of the longer side of a kept image, at most."""

    def keep(self, transport: InProcess) -> list[str]:
        """Writes the gallery of every site, and returns notes on those that could not."""

        local, shared = transport.local, transport.local.shared()

        def arrays(site: Site) -> Arrays:
            with local.at(site), local.measuring() as device:
                local.load(shared | personal_weights(site.memory))
                return self.arrays(local.module.encoder, site.images, site.test, device)

        notes = kept_by_each(transport, "gallery", FILE, arrays)
        local.load(shared)  # a personal model was in their place
        return notes

    def arrays(self, encoder: Any, train: Images, test: Images | None, device: torch.device) -> Arrays:
        """Raises Refused if the features are not finite."""
        asked = test if test is not None and len(test) else train
        shown = asked.take(evenly(len(asked), self.images))
        searched = train.take(evenly(len(train), self.searched))
        features = _unit(encoder, shown, device)
        at = _of_every_class(shown.labels, self.queries)
        cosines = features[at] @ _unit(encoder, searched, device).T
        # Slices of one volume are alike whatever was learned: neighbours are of other patients.
        cosines[_same_patient(shown, at, searched)] = -torch.inf
        near = cosines.topk(min(self.neighbours, len(searched)), dim=1)
        kept = near.values.isfinite().all(0)  # a site of one patient has no neighbours
        places = near.indices[:, kept]
        return {
            "features": features.half().numpy(), "labels": shown.labels.numpy(),
            "queries": self._pixels(shown, at), "query_labels": shown.labels[at].numpy(),
            "neighbours": np.stack([self._pixels(searched, row) for row in places]),
            "neighbour_labels": searched.labels[places].numpy(),
            "cosines": near.values[:, kept].half().numpy(), "encoder": np.array(_checksum(encoder)),
        }  # fmt: skip

    def _pixels(self, images: Images, places: Int[Tensor, "n"]) -> UInt8[np.ndarray, "n c h w"]:
        if not len(places):
            return np.zeros((0, images.channels, 1, 1), np.uint8)
        return thumbnails(images.batch(places), self.side)


def _unit(encoder: Any, images: Images, device: torch.device) -> Float[Tensor, "n d"]:
    features, _ = embed(encoder, images, len(images), device, batch=64)
    if not features.isfinite().all():
        raise Refused("the encoder's features are not finite")
    return normalize(features, dim=1)


def _of_every_class(labels: Int[Tensor, "n"], count: int) -> Int[Tensor, "q"]:
    """Places spread evenly over the images in order of their labels: no large class takes them all."""
    order = labels.argsort(stable=True)
    if len(order) <= count:
        return order
    return order[torch.linspace(0, len(order) - 1, count + 2)[1:-1].long()]


def _same_patient(shown: Images, at: Int[Tensor, "q"], searched: Images) -> Bool[Tensor, "q m"]:
    ours, theirs = torch.from_numpy(shown.patients)[at], torch.from_numpy(searched.patients)
    return ours[:, None] == theirs[None]


def _checksum(encoder: Any) -> int:
    total = 0
    for tensor in encoder.state_dict().values():
        total = zlib.crc32(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data, total)
    return total
