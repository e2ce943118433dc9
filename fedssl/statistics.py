"""Feature statistics instead of features (FedMoCo's metadata transfer: Dong & Voiculescu 2021, arXiv 2109.07504).

A site sends the mean and the covariance of its bank; every other site draws synthetic features from
N(mean, eta * covariance) as further negatives. That is our reading: the paper calls it an
inter-node statistical data augmentation and gives no formula for eta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.message import STATISTICS, Message, Tensors
from fedcore.site import Round
from fedssl.bank import Banked, site_number


@dataclass(frozen=True)
class SiteStatistics(Message):
    """First two moments of a site's normalised features, and of how many; count 0: too few to tell."""

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
    """A site with fewer features in its bank sends none: the moments of a few images tell of each of them."""

    def __post_init__(self) -> None:
        if self.draw < 1 or self.eta < 0 or self.at_least < 2:
            raise ValueError(f"draw >= 1, eta >= 0 and at_least >= 2 must hold, got {self}")

    def start(self) -> StatisticsPool:
        return StatisticsPool({}, {}, {})

    def broadcast(self, pool: StatisticsPool, site: str, turn: Round) -> StatisticsPool:
        parts = (pool.mean, pool.covariance, pool.count)
        return StatisticsPool(*({name: t for name, t in part.items() if name != site} for part in parts))

    def receive(self, module: Banked, down: StatisticsPool, turn: Round) -> None:
        module.remote.clear()
        total = sum(float(n) for n in down.count.values())
        for name in sorted(down.mean):
            n = round(self.draw * float(down.count[name]) / total)
            generator = torch.Generator().manual_seed(turn.seed_of(name, "statistics"))
            synthetic = draw_features(down.mean[name], self.eta * down.covariance[name], n, generator)
            module.remote.push(synthetic.to(module.remote.features.device), site_number(name), turn.index)

    def collect(self, module: Banked, site: str, turn: Round) -> SiteStatistics:
        return moments(module.bank.entries().cpu(), self.at_least)

    def merge(self, pool: StatisticsPool, uploads: dict[str, SiteStatistics]) -> StatisticsPool:
        told = {site: up for site, up in uploads.items() if up.count > 0}
        return StatisticsPool(
            pool.mean | {site: up.mean for site, up in told.items()},
            pool.covariance | {site: up.covariance for site, up in told.items()},
            pool.count | {site: up.count for site, up in told.items()},
        )


def moments(features: Float[Tensor, "n d"], at_least: int = 2) -> SiteStatistics:
    """Mean and unbiased covariance of `features`, or zeros and a count of 0 if there are too few."""
    n, d = features.shape
    if n < at_least:
        return SiteStatistics(torch.zeros(d), torch.zeros(d, d), torch.zeros(()))
    return SiteStatistics(features.mean(0), features.T.cov(), torch.tensor(float(n)))


def draw_features(
    mean: Float[Tensor, "d"], covariance: Float[Tensor, "d d"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """`n` draws from N(mean, covariance), put back on the unit sphere; a singular covariance is allowed."""
    values, vectors = torch.linalg.eigh(covariance.double())
    root = vectors * values.clamp_min(0).sqrt()
    noise = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    return normalize(mean.double() + noise @ root.T, dim=1).float()
