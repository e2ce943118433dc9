"""Shared feature banks of vectors (FCL: Wu et al. 2021, arXiv 2204.10983).

Every site uploads the newest features of its bank; every other site contrasts against a random draw
from all of them. Vectors reveal FEATURES, so a run has to allow it. Local differential privacy does
not rescue them (at epsilon 8 a unit vector of 128 numbers keeps a cosine of 0.07 to itself): where
that matters, share statistics (`fedssl.statistics`) instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.errors import Refused
from fedcore.message import FEATURES, STATISTICS, Message, Tensors
from fedcore.site import Round
from fedssl.bank import site_number
from fedssl.moco import MoCo
from fedssl.wire import Wire, bounded, decode, encode


@dataclass(frozen=True)
class SiteVectors(Message):
    """What one site uploads: features, the scale of each row (int8 only), and the round each was made in."""

    features: Shaped[Tensor, "n d"] = field(metadata=FEATURES)
    scale: Float[Tensor, "m"] = field(metadata=FEATURES)
    born: Int[Tensor, "n"] = field(metadata=STATISTICS)


@dataclass(frozen=True)
class VectorPool(Message):
    """The same by site: all of them at the server, a draw of them on the way down."""

    features: Tensors = field(metadata=FEATURES)
    scale: Tensors = field(metadata=FEATURES)
    born: Tensors = field(metadata=STATISTICS)


@dataclass(frozen=True)
class ShareVectors:
    """FCL's exchange: one bank a site in the pool, refreshed whenever the site takes part."""

    per_site: int = 1024
    """Features a site uploads, its newest; also what the pool keeps of it."""
    draw: int = 1024
    """K: features a site is given, drawn from those of all other sites."""
    wire: Wire = "fp16"
    """fp32, fp16, or int8, which halves the bytes of fp16 at a cosine above 0.9999."""

    def __post_init__(self) -> None:
        if self.per_site < 1 or self.draw < 1:
            raise ValueError(f"per_site and draw must be at least 1, got {self.per_site} and {self.draw}")

    def start(self) -> VectorPool:
        return VectorPool({}, {}, {})

    def broadcast(self, pool: VectorPool, site: str, turn: Round) -> VectorPool:
        others = sorted(pool.born.keys() - {site})
        drawn = _draw([len(pool.born[name]) for name in others], self.draw, turn.seed_of(site, "bank"))
        rows = dict(zip(others, drawn, strict=True))
        return VectorPool(
            {name: pool.features[name][r] for name, r in rows.items()},
            {name: pool.scale[name][r] if len(pool.scale[name]) else pool.scale[name] for name, r in rows.items()},
            {name: pool.born[name][r] for name, r in rows.items()},
        )

    def receive(self, module: MoCo, down: VectorPool, turn: Round) -> None:
        given = sum(len(rows) for rows in down.features.values())
        if given > module.remote.capacity:
            raise Refused(
                f"{given} features arrived, the method's `remote` holds {module.remote.capacity}; "
                "set remote to at least the exchange's draw"
            )
        module.remote.clear()
        for name, rows in down.features.items():
            # Renormalised here, so a site that breaks its bound gains no weight.
            features = normalize(decode(rows, down.scale[name]), dim=1).to(module.remote.features.device)
            module.remote.push(features, site_number(name), down.born[name].to(features.device))

    def collect(self, module: MoCo, site: str, turn: Round) -> SiteVectors:
        features, born = module.bank.newest(self.per_site)
        rows, scale = encode(bounded(features), self.wire)
        return SiteVectors(rows.cpu(), scale.cpu(), born.cpu().int())

    def merge(self, pool: VectorPool, uploads: dict[str, SiteVectors]) -> VectorPool:
        return VectorPool(
            pool.features | {site: up.features for site, up in uploads.items()},
            pool.scale | {site: up.scale for site, up in uploads.items()},
            pool.born | {site: up.born for site, up in uploads.items()},
        )


def _draw(sizes: Sequence[int], k: int, seed: int) -> list[Int[Tensor, "_"]]:
    """`k` rows out of several parts laid end to end, without repetition; row numbers within each part."""
    places = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))[:k].sort().values
    starts = torch.tensor([0, *sizes], dtype=torch.int64).cumsum(0)
    return [places[(places >= a) & (places < b)] - a for a, b in pairwise(starts)]
