"""Probe of an encoder at each site on the site's own images: kNN, a linear probe and collapse metrics.

A site sends scalars only, each of at least `policy.min_patients` patients: kNN and the linear probe of that many
labelled test patients, the collapse metrics of that many training patients. A metric of fewer patients, or that needs
labels where there are none, is not sent.

A site that has its own encoder in addition to the global one is measured by its own; `shared_knn` and the other
`shared_` metrics are those of the global encoder.
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
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Weights
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.models.features import embed, evenly_spaced
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import personal_weights
from fedssl.evaluation.linear import linear_probe

SHARED = "shared_"
MEASURED = ("feature_std", "effective_rank", "knn", "linear")
"""Metrics of an encoder."""


@dataclass(frozen=True)
class Probe:
    """Measured between rounds at the sites of the round, and after the last round at every site."""

    metric_names = (*MEASURED, "images", *(SHARED + name for name in MEASURED))

    every: int = 5
    """Rounds between two probes; the last round is always probed."""
    knn_k: int = 20
    """Neighbours that vote."""
    max_images: int = 1000
    """Maximum number of training images and of test images, taken at even steps from each split."""
    linear: bool = False
    """Also train a linear probe on the frozen features: a second or two per site."""

    def __post_init__(self) -> None:
        if min(self.every, self.knn_k, self.max_images) < 1:
            raise ValueError(f"every, knn_k and max_images must be at least 1, got {self}")

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        own = personal_weights(site.memory)
        metrics = self._measure_weights(down.tensors | own, site, local)
        encoder = {name for name in own if name.startswith("encoder.")}
        if encoder and encoder <= down.tensors.keys():  # else there is no global encoder
            shared = self._measure_weights(down.tensors, site, local)
            metrics |= {f"{SHARED}{name}": value for name, value in shared.items() if name != "images"}
        return Contribution(site.name, Empty(), site.size, metrics)

    def _measure_weights(self, weights: Tensors, site: Site, local: LocalTrainer) -> dict[str, float]:
        local.load(weights)
        with local.measuring() as device:
            return self._measure(site, local.module.encoder, device)

    def _measure(self, site: Site, encoder: Any, device: torch.device) -> dict[str, float]:
        train, labels = embed(encoder, site.images, self.max_images, device)
        if not train.isfinite().all():
            raise Refused("the encoder's features are not finite")
        metrics, min_patients = {}, site.policy.min_patients
        if len(train) > 1 and _count_patients(site.images, self.max_images) >= min_patients:
            metrics = {"feature_std": feature_std(train), "effective_rank": effective_rank(train)}
        if site.test is not None and len(site.test):
            test, truth = embed(encoder, site.test, self.max_images, device)
            if _count_patients(site.test, self.max_images, truth >= 0) >= min_patients:
                metrics |= self._scores(train, labels, test, truth)
        return metrics

    def _scores(self, train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> dict[str, float]:
        labelled, labelled_test = labels >= 0, truth >= 0
        # If all labels are the same, any features get every image right.
        if len(labels[labelled].unique()) < 2 or not labelled_test.any():
            return {}
        train, labels, test, truth = train[labelled], labels[labelled], test[labelled_test], truth[labelled_test]
        scores = {"knn": _accuracy(knn(train, labels, test, self.knn_k), truth), "images": float(len(truth))}
        if self.linear:
            scores["linear"] = _accuracy(linear_probe(train, labels, test), truth)
        return scores


def _count_patients(images: Images, max_images: int, selected: Tensor | slice = slice(None)) -> int:
    """Patients of the images that `embed` takes, or of the `selected` ones of them."""
    return len(torch.from_numpy(images.patients)[evenly_spaced(len(images), max_images)][selected].unique())


def _accuracy(predicted: Int[Tensor, "n"], truth: Int[Tensor, "n"]) -> float:
    return float((predicted == truth).float().mean())


def knn(
    train: Float[Tensor, "n d"], labels: Int[Tensor, "n"], test: Float[Tensor, "m d"], k: int = 20
) -> Int[Tensor, "m"]:
    """Labels by a vote of the k nearest by cosine, weighted by exp(cosine / 0.1) (Wu et al. 2018, arXiv 1805.01978)."""
    from lightly.utils.benchmarking.knn import knn_predict

    bank, query = normalize(train, dim=1).T.contiguous(), normalize(test, dim=1)
    ranked: Tensor = knn_predict(query, bank, labels, int(labels.max()) + 1, min(k, len(train)))
    return ranked[:, 0]


def feature_std(features: Float[Tensor, "n d"]) -> float:
    """Mean standard deviation of the normalised features, times sqrt(d); 0: collapse, 1: ideal.

    Needs two images. After Chen & He 2020 (arXiv 2011.10566), whose value is not multiplied by sqrt(d).
    """
    return float(normalize(features, dim=1).std(0).mean()) * features.shape[1] ** 0.5


def effective_rank(features: Float[Tensor, "n d"]) -> float:
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007), in [1, min(n, d)]."""
    centred = features.double() - features.double().mean(0)
    # Singular values are the roots of the eigenvalues of the smaller Gram matrix, which take a half to a quarter of the
    # time. n centred features span at most n - 1 directions; any other value that should be 0 is up to 1e-8 of the
    # largest, below the six digits that a site sends.
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram)[-min(len(centred) - 1, centred.shape[1]) :].clamp_min(0).sqrt()
    p = (values / values.sum().clamp_min(1e-300)).clamp_min(1e-300)
    return float(torch.exp(-(p * p.log()).sum()))
