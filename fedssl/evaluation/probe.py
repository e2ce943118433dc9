"""How good an encoder is, measured at each site on its own images: kNN, a linear probe and gauges of collapse.

Only scalars leave the site, each of `policy.min_patients` patients at least: kNN and the linear probe of that many
labelled test patients, the gauges of that many training patients. Others are left out, as where labels are missing.

A site that has an encoder of its own beside the federation's is measured by its own; `shared_knn` and the like are of
the federation's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.messages.message import Contribution, Empty, Tensors, Weights
from fedcore.models.features import embed, evenly_spaced
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import personal_weights
from fedssl.evaluation.linear import linear_probe

SHARED = "shared_"


@dataclass(frozen=True)
class Probe:
    """Asked between rounds of the sites that the round asked, and after the last round of every site."""

    every: int = 5
    """Rounds between two probes; the last round is always probed."""
    k: int = 20
    """Neighbours that vote."""
    images: int = 1000
    """Images at most, of the training and of the test part, taken evenly from each."""
    linear: bool = False
    """A linear layer on the frozen features too: a second or two a site."""

    def __post_init__(self) -> None:
        if min(self.every, self.k, self.images) < 1:
            raise ValueError(f"every, k and images must be at least 1, got {self}")

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        own = personal_weights(site.memory)
        metrics = self._of(down.tensors | own, site, local)
        encoder = {name for name in own if name.startswith("encoder.")}
        if encoder and encoder <= down.tensors.keys():  # else there is no encoder of the federation
            shared = self._of(down.tensors, site, local)
            metrics |= {f"{SHARED}{name}": value for name, value in shared.items() if name != "images"}
        return Contribution(site.name, Empty(), site.size, metrics)

    def _of(self, weights: Tensors, site: Site, local: LocalTrainer) -> dict[str, float]:
        local.load(weights)
        with local.measuring() as device:
            return self._measure(site, local.module.encoder, device)

    def _measure(self, site: Site, encoder: Any, device: torch.device) -> dict[str, float]:
        train, labels = embed(encoder, site.images, self.images, device)
        if not train.isfinite().all():
            raise Refused("the encoder's features are no longer finite")
        metrics, least = {}, site.policy.min_patients
        if len(train) > 1 and _patients(site.images, self.images) >= least:
            metrics = {"feature_std": feature_std(train), "effective_rank": effective_rank(train)}
        if site.test is not None and len(site.test):
            test, truth = embed(encoder, site.test, self.images, device)
            if _patients(site.test, self.images, truth >= 0) >= least:
                metrics |= self._scores(train, labels, test, truth)
        return metrics

    def _scores(self, train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> dict[str, float]:
        known, asked = labels >= 0, truth >= 0
        # Where all labels are the same, any features would be right.
        if len(labels[known].unique()) < 2 or not asked.any():
            return {}
        train, labels, test, truth = train[known], labels[known], test[asked], truth[asked]
        scores = {"knn": _accuracy(knn(train, labels, test, self.k), truth), "images": float(len(truth))}
        if self.linear:
            scores["linear"] = _accuracy(linear_probe(train, labels, test), truth)
        return scores


def _patients(images: Images, at_most: int, of: Tensor | slice = slice(None)) -> int:
    """Patients of the images that `embed` takes, or of those `of` them."""
    return len(torch.from_numpy(images.patients)[evenly_spaced(len(images), at_most)][of].unique())


def _accuracy(guesses: Int[Tensor, "n"], truth: Int[Tensor, "n"]) -> float:
    return float((guesses == truth).float().mean())


def knn(
    train: Float[Tensor, "n d"], labels: Int[Tensor, "n"], test: Float[Tensor, "m d"], k: int = 20
) -> Int[Tensor, "m"]:
    """Labels by a vote of the k nearest by cosine, weighted by exp(cosine / 0.1) (Wu et al. 2018, arXiv 1805.01978)."""
    from lightly.utils.benchmarking.knn import knn_predict

    bank, query = normalize(train, dim=1).T.contiguous(), normalize(test, dim=1)
    ranked: Tensor = knn_predict(query, bank, labels, int(labels.max()) + 1, min(k, len(train)))
    return ranked[:, 0]


def feature_std(features: Float[Tensor, "n d"]) -> float:
    """Mean standard deviation of the normalised features, times sqrt(d): near 1 is healthy, 0 is collapsed.

    Needs two images. After Chen & He 2020 (arXiv 2011.10566), whose value is not multiplied by sqrt(d).
    """
    return float(normalize(features, dim=1).std(0).mean()) * features.shape[1] ** 0.5


def effective_rank(features: Float[Tensor, "n d"]) -> float:
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007), in [1, min(n, d)]."""
    centred = features.double() - features.double().mean(0)
    # Singular values are the roots of the eigenvalues of the smaller Gram matrix, found in a half to a quarter of the
    # time. Centred images span one direction less than they are; a further value that is 0 comes out as up to 1e-8 of
    # the greatest, below the six digits that leave a site.
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram)[-min(len(centred) - 1, centred.shape[1]) :].clamp_min(0).sqrt()
    shares = (values / values.sum().clamp_min(1e-300)).clamp_min(1e-300)
    return float(torch.exp(-(shares * shares.log()).sum()))
