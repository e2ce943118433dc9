"""Exchange of feature statistics between sites (FedMoCo's metadata transfer: Dong & Voiculescu 2021, arXiv 2109.07504).

A site sends the mean and the covariance of its feature bank; every other site samples synthetic features from
N(mean, eta * covariance) as additional negatives. That is our reading: the paper calls it an inter-node statistical
data augmentation and gives no formula for eta.

Moments reveal who was in them, the more so the more numbers and the fewer patients. Of n patients with one feature of
128 numbers each, of a fixed encoder, the Mahalanobis distance by the covariance that was sent separates members from
others with an AUROC of 1.00 at n = 256, 0.80 at 1,024 and 0.63 at 2,560 (below 128 the residual outside the affine
span of the covariance does so exactly); by variances alone 0.60 at 100, 0.54 at 256, 0.51 at 1,024 (simulated:
Gaussian features, variances falling as exp(-j / 60), on the sphere). So a site sends a covariance only with
`min_patients_per_dim` patients for each of its dimensions, and variances alone with fewer. An attacker who has the
mean of the whole population separates them by the site's mean with 0.77 at 100 and 0.66 at 256; a site with fewer
than `min_patients` patients sends nothing.
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
from fedcore.messages.message import Message
from fedcore.messages.reveals import STATISTICS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedssl.bank.feature_bank import FeatureBankMethod, site_id


@dataclass(frozen=True)
class SiteStatistics(Message):
    """First two moments of a site's normalised features, and how many features; count 0: too few patients to send
    them. With variances alone the covariance is diagonal."""

    recipients: ClassVar[str] = "server, other sites"
    mean: Float[Tensor, "d"] = field(metadata=STATISTICS)
    covariance: Float[Tensor, "d d"] = field(metadata=STATISTICS)
    count: Float[Tensor, ""] = field(metadata=STATISTICS)


@dataclass(frozen=True)
class StatisticsPool(Message):
    """The fields of SiteStatistics by site."""

    mean: Tensors = field(metadata=STATISTICS)
    covariance: Tensors = field(metadata=STATISTICS)
    count: Tensors = field(metadata=STATISTICS)


@dataclass(frozen=True)
class ShareStatistics:
    """FedMoCo's exchange: d + d^2 + 1 numbers per site, whatever the size of its bank."""

    remote_features: int = 1024
    """Synthetic features that a site samples in total, divided in proportion to the other sites' counts; at most the
    method's remote_bank_size."""
    eta: float = 1.0
    """Scale of the covariance of the synthetic features; 1 samples from the fitted Gaussian."""
    min_patients: int = 64
    """A site with features of fewer patients, or of fewer than `policy.min_patients`, sends nothing."""
    min_patients_per_dim: int = 20
    """Patients per dimension of a feature that a site needs to send covariances; with fewer it sends variances."""

    def __post_init__(self) -> None:
        if self.remote_features < 1 or self.eta < 0 or self.min_patients < 2 or self.min_patients_per_dim < 2:
            raise ValueError(
                f"remote_features >= 1, eta >= 0, min_patients >= 2 and min_patients_per_dim >= 2 must hold, got {self}"
            )

    def start(self) -> StatisticsPool:
        return StatisticsPool({}, {}, {})

    def broadcast(self, pool: StatisticsPool, site: str, turn: Round) -> StatisticsPool:
        fields = (pool.mean, pool.covariance, pool.count)
        return StatisticsPool(*({name: t for name, t in by_site.items() if name != site} for by_site in fields))

    def receive(self, module: FeatureBankMethod, down: StatisticsPool, turn: Round) -> None:
        bank = module.remote_bank
        if self.remote_features > bank.capacity:
            raise Refused(
                f"the exchange samples {self.remote_features} features, but the remote bank holds {bank.capacity}; "
                "set the method's remote_bank_size to at least the exchange's remote_features"
            )
        bank.clear()
        names = sorted(down.mean)
        totals = np.cumsum([0.0, *(float(down.count[name]) for name in names)])
        counts = np.diff(np.round(self.remote_features * totals / totals[-1]).astype(int)) if names else ()
        for name, n in zip(names, map(int, counts), strict=True):
            generator = torch.Generator().manual_seed(turn.seed_of(name, "statistics"))
            synthetic = sample_features(down.mean[name], self.eta * down.covariance[name], n, generator)
            bank.push(synthetic.to(bank.features.device), site_id(name), turn.index)

    def collect(self, module: FeatureBankMethod, site: Site, turn: Round) -> SiteStatistics:
        features = module.bank.entries().cpu()
        patients, d = fewest_patients(len(features), site.images.patients), features.shape[1]
        if patients < max(self.min_patients, site.policy.min_patients):
            return SiteStatistics(torch.zeros(d), torch.zeros(d, d), torch.zeros(()))
        statistics = moments(features)
        if patients < self.min_patients_per_dim * d:
            statistics = replace(statistics, covariance=statistics.covariance.diagonal().diag())
        return statistics

    def merge(self, pool: StatisticsPool, uploads: dict[str, SiteStatistics]) -> StatisticsPool:
        usable = {site: up for site, up in uploads.items() if up.count > 0}
        return StatisticsPool(
            pool.mean | {site: up.mean for site, up in usable.items()},
            pool.covariance | {site: up.covariance for site, up in usable.items()},
            pool.count | {site: up.count for site, up in usable.items()},
        )

    def error_of(self, pool: StatisticsPool, upload: SiteStatistics) -> str | None:
        if any(len(mean) != len(upload.mean) for mean in pool.mean.values()):
            return f"its features have {len(upload.mean)} numbers, and those of other sites have not"
        return None if upload.count >= 0 else "its number of features is negative"


def fewest_patients(rows: int, patients: Int[np.ndarray, " n"]) -> int:
    """The fewest patients that so many rows of a bank can come from; `patients` is the patient of each image.

    Each image comes once per epoch, so rows are of different images as long as there are so many; additional rows are
    of the same images again.
    """
    largest_first = np.sort(np.unique(patients, return_counts=True)[1])[::-1]
    return int(np.searchsorted(largest_first.cumsum(), min(rows, len(patients)))) + 1 if rows else 0


def moments(features: Float[Tensor, "n d"]) -> SiteStatistics:
    """Mean and unbiased covariance of at least two features."""
    return SiteStatistics(features.mean(0), features.T.cov(), torch.tensor(float(len(features))))


def sample_features(
    mean: Float[Tensor, "d"], covariance: Float[Tensor, "d d"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d"]:
    """`n` samples of N(mean, covariance), normalised to unit length; the covariance may be singular."""
    values, vectors = torch.linalg.eigh(covariance.double())
    root = vectors * values.clamp_min(0).sqrt()
    noise = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    return normalize(mean.double() + noise @ root.T, dim=1).float()
