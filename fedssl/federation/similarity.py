"""FedMoCo's self-adaptive aggregation by representational similarity (Dong & Voiculescu 2021, arXiv 2109.07504).

r is the correlation of the representational dissimilarity matrices of a fixed local batch before and after the visit.
A site's weight in the mean is proportional to 1 - r, so sites whose visit changed the representation more count more.
The formula of the weight is our reading. In a recipe::

    visit: {callbacks: [fedssl.federation.similarity.RepresentationChange]}
    algorithm:
      class_path: fedcore.algorithms.fedavg.FedAvg
      init_args:
        aggregator: {class_path: fedcore.aggregation.mean.Mean, init_args: {weight: representation_change}}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fedcore.errors import Refused
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.functional import evaluating

_BATCH_SIZE = 16
"""Images per forward pass: in float32 more volumes could take more memory than a training step."""


@dataclass(frozen=True)
class RepresentationChange:
    """Measures 1 - r at every visit and reports it as the metric `representation_change`, in [0, 2].

    A site with fewer than 3 images declines, since it has no two distances to compare.
    """

    metric_names = ("representation_change",)

    max_images: int = 64
    """Size of the fixed local batch, taken at even steps from the site's images."""

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        if site.size < 3:
            raise Refused(
                "representation_change compares distances between images and needs 3 images; omit the site, or "
                "set the aggregator's weight to examples"
            )
        indices = torch.linspace(0, site.size - 1, min(self.max_images, site.size)).long().unique()
        return _RepresentationChangeCallback(site.images.batch(indices))


class _RepresentationChangeCallback(Callback):
    def __init__(self, batch: Float[Tensor, "n c *space"]):
        self.batch = batch
        self.before = self.after = torch.zeros(0)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.before = self._matrix(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.after = self._matrix(module)

    def report(self) -> dict[str, float]:
        return {"representation_change": 1 - correlation(self.before, self.after)}

    @torch.no_grad()
    def _matrix(self, module: LightningModule) -> Tensor:
        encoder = module.encoder
        assert isinstance(encoder, torch.nn.Module)
        with evaluating(encoder):  # batch norm must neither use nor update its statistics with this batch
            features = [encoder(images.to(module.device)).float() for images in self.batch.split(_BATCH_SIZE)]
        return dissimilarity(torch.cat(features))


def dissimilarity(features: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """1 - Pearson correlation of the features of every pair of images (Kriegeskorte et al. 2008)."""
    n = len(features)
    return 1 - torch.corrcoef(features).reshape(n, n).nan_to_num(0.0)  # torch gives a scalar for one image


def correlation(a: Float[Tensor, "n n"], b: Float[Tensor, "n n"]) -> float:
    """Pearson correlation of the upper triangles; 1 where one of them is constant."""
    i, j = torch.triu_indices(len(a), len(a), offset=1)
    pair = torch.stack([a[i, j], b[i, j]])
    if pair.shape[1] < 2 or bool((pair.std(1) == 0).any()):
        return 1.0
    return float(torch.corrcoef(pair)[0, 1])
