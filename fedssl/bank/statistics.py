"""Feature statistics instead of features (FedMoCo's metadata transfer: Dong & Voiculescu 2021, arXiv 2109.07504).

A site sends the mean and the covariance of its bank; every other site draws synthetic features from
N(mean, eta * covariance) as further negatives. That is our reading: the paper calls it an
inter-node statistical data augmentation and gives no formula for eta.

Moments tell who was in them, the more so the more numbers and the fewer patients. Of n patients with one feature of
128 numbers each, of a fixed encoder, the Mahalanobis distance by the covariance that was sent tells patients that were
in from others with an AUROC of 1.00 at n = 256, 0.80 at 1,024 and 0.63 at 2,560 (below 128 the residual outside the
affine span of the covariance does so exactly); by variances alone 0.60 at 100, 0.54 at 256, 0.51 at 1,024 (simulated:
Gaussian features, variances falling as exp(-j / 60), on the sphere). So a covariance needs `full_from` patients for
each of its dimensions, and a site with fewer sends variances alone. Those who know the mean of all patients there are
tell 0.77 at 100 and 0.66 at 256 from the site's mean; a site with fewer than `at_least` patients sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.errors import Refused
from fedcore.messages.message import STATISTICS, Message, Tensors
from fedcore.site.site import Round, Site
from fedssl.bank.feature_bank import Banked, site_number


@dataclass(frozen=True)
class SiteStatistics(Message):
    """First two moments of a site's normalised features, and of how many; count 0: too few patients to tell. A
    covariance that is diagonal holds variances alone."""

    recipients: ClassVar[str] = "server, other sites"
    mean: Float[Tensor, "d"] = field(metadata=STATISTICS)
    covariance: Float[Tensor, "d d"] = field(metadata=STATISTICS)
    count: Float[Tensor, ""] = field(metadata=STATISTICS)


@dataclass(frozen=True)
class StatisticsPool(Message):
    """The same by site."""

    mean: Tensors = field(metadata=STATISTICS)
    covariance: Tensors = field(metadata=STATISTICS)
    count: Tensors = field(metadata=STATISTICS)


@dataclass(frozen=True)
class ShareStatistics:
    """FedMoCo's exchange: d + d^2 + 1 numbers a site, whatever the size of its bank."""

    draw: int = 1024
    """Synthetic features a site makes in all, shared out by the other sites' counts."""
    eta: float = 1.0
    """Spread of the synthetic features; 1 draws from the fitted Gaussian."""
    at_least: int = 64
    """A site with fewer patients behind its bank, or fewer than `policy.min_patients`, sends nothing."""
    full_from: int = 20
    """Patients for each dimension of a feature from which on covariances are sent; below it variances alone."""

    def __post_init__(self) -> None:
        if self.draw < 1 or self.eta < 0 or self.at_least < 2 or self.full_from < 2:
            raise ValueError(f"draw >= 1, eta >= 0, at_least >= 2 and full_from >= 2 must hold, got {self}")

    def start(self) -> StatisticsPool:
        return StatisticsPool({}, {}, {})

    def broadcast(self, pool: StatisticsPool, site: str, turn: Round) -> StatisticsPool:
        parts = (pool.mean, pool.covariance, pool.count)
        return StatisticsPool(*({name: t for name, t in part.items() if name != site} for part in parts))

    def receive(self, module: Banked, down: StatisticsPool, turn: Round) -> None:
        if self.draw > module.remote.capacity:
            raise Refused(
                f"{self.draw} features are drawn, the method's `remote` holds {module.remote.capacity}; set remote to "
                "at least the exchange's draw"
            )
        module.remote.clear()
        names = sorted(down.mean)
        ends = np.cumsum([0.0, *(float(down.count[name]) for name in names)])
        numbers = np.diff(np.round(self.draw * ends / ends[-1]).astype(int)) if names else ()
        for name, n in zip(names, map(int, numbers), strict=True):
            generator = torch.Generator().manual_seed(turn.seed_of(name, "statistics"))
            synthetic = draw_features(down.mean[name], self.eta * down.covariance[name], n, generator)
            module.remote.push(synthetic.to(module.remote.features.device), site_number(name), turn.index)

    def collect(self, module: Banked, site: Site, turn: Round) -> SiteStatistics:
        features = module.bank.entries().cpu()
        patients, d = patients_behind(len(features), site.images.patients), features.shape[1]
        if patients < max(self.at_least, site.policy.min_patients):
            return SiteStatistics(torch.zeros(d), torch.zeros(d, d), torch.zeros(()))
        told = moments(features)
        if patients < self.full_from * d:
            told = replace(told, covariance=told.covariance.diagonal().diag())
        return told

    def merge(self, pool: StatisticsPool, uploads: dict[str, SiteStatistics]) -> StatisticsPool:
        told = {site: up for site, up in uploads.items() if up.count > 0}
        return StatisticsPool(
            pool.mean | {site: up.mean for site, up in told.items()},
            pool.covariance | {site: up.covariance for site, up in told.items()},
            pool.count | {site: up.count for site, up in told.items()},
        )


def patients_behind(rows: int, patients: Int[np.ndarray, " n"]) -> int:
    """The fewest patients of whom so many rows of a bank can be, `patients` being whose each image of the site is.

    Images come once an epoch, so rows are of different images as far as there are so many; further rows are of the
    same images again.
    """
    largest_first = np.sort(np.unique(patients, return_counts=True)[1])[::-1]
    return int(np.searchsorted(largest_first.cumsum(), min(rows, len(patients)))) + 1 if rows else 0


def moments(features: Float[Tensor, "n d"]) -> SiteStatistics:
    """Mean and unbiased covariance of at least two features."""
    return SiteStatistics(features.mean(0), features.T.cov(), torch.tensor(float(len(features))))


def draw_features(
    mean: Float[Tensor, "d"], covariance: Float[Tensor, "d d"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """`n` draws from N(mean, covariance), put back on the unit sphere; a singular covariance is allowed."""
    values, vectors = torch.linalg.eigh(covariance.double())
    root = vectors * values.clamp_min(0).sqrt()
    noise = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    return normalize(mean.double() + noise @ root.T, dim=1).float()
