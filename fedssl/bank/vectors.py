"""Shared feature banks of vectors (FCL: Wu et al. 2021, arXiv 2204.10983).

Every site uploads the newest features of its bank; every other site contrasts against a random draw
from all of them. Vectors reveal FEATURES, so a run has to allow it. Local differential privacy does
not rescue them (at epsilon 8 a unit vector of 128 numbers keeps a cosine of 0.07 to itself): where
that matters, share statistics (`fedssl.bank.statistics`) instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.errors import Refused
from fedcore.messages.message import FEATURES, STATISTICS, Message, Tensors
from fedcore.site.site import Round, Site
from fedssl.bank.encoding import Wire, bounded, decode, encode
from fedssl.bank.feature_bank import UNKNOWN, Banked, site_number


@dataclass(frozen=True)
class SiteVectors(Message):
    """What one site uploads of its newest features."""

    recipients: ClassVar[str] = "server, other sites"
    features: Shaped[Tensor, "n d"] = field(metadata=FEATURES)
    scale: Float[Tensor, "m"] = field(metadata=FEATURES)
    """Of each row in int8, else empty."""
    born: Int[Tensor, "n"] = field(metadata=STATISTICS)
    """The round each was made in."""
    part: Int[Tensor, "p"] = field(metadata=STATISTICS)
    """The part of the volume each shows; empty where the method knows none."""


@dataclass(frozen=True)
class VectorPool(Message):
    """The same by site: all of them at the server, a draw of them on the way down."""

    features: Tensors = field(metadata=FEATURES)
    scale: Tensors = field(metadata=FEATURES)
    born: Tensors = field(metadata=STATISTICS)
    part: Tensors = field(metadata=STATISTICS)


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
        return VectorPool({}, {}, {}, {})

    def broadcast(self, pool: VectorPool, site: str, turn: Round) -> VectorPool:
        others = sorted(pool.born.keys() - {site})
        drawn = _draw([len(pool.born[name]) for name in others], self.draw, turn.seed_of(site, "bank"))
        rows = dict(zip(others, drawn, strict=True))
        fields = (pool.features, pool.scale, pool.born, pool.part)
        return VectorPool(*({name: _rows(held[name], r) for name, r in rows.items()} for held in fields))

    def receive(self, module: Banked, down: VectorPool, turn: Round) -> None:
        given = sum(len(rows) for rows in down.features.values())
        if given > module.remote.capacity:
            raise Refused(
                f"{given} features arrived, the method's `remote` holds {module.remote.capacity}; "
                "set remote to at least the exchange's draw"
            )
        device = module.remote.features.device
        module.remote.clear()
        for name, rows in down.features.items():
            # Renormalised here, so a site that breaks its bound gains no weight.
            features = normalize(decode(rows, down.scale[name]), dim=1).to(device)
            part = down.part[name].to(device) if len(down.part[name]) else UNKNOWN
            module.remote.push(features, site_number(name), down.born[name].to(device), part)

    def collect(self, module: Banked, site: Site, turn: Round) -> SiteVectors:
        features, born, part = module.bank.newest(self.per_site)
        rows, scale = encode(bounded(features), self.wire)
        told = part if bool((part != UNKNOWN).any()) else part[:0]
        return SiteVectors(rows.cpu(), scale.cpu(), born.cpu().int(), told.cpu().to(torch.int16))

    def merge(self, pool: VectorPool, uploads: dict[str, SiteVectors]) -> VectorPool:
        return VectorPool(
            pool.features | {site: up.features for site, up in uploads.items()},
            pool.scale | {site: up.scale for site, up in uploads.items()},
            pool.born | {site: up.born for site, up in uploads.items()},
            pool.part | {site: up.part for site, up in uploads.items()},
        )


def _draw(sizes: Sequence[int], k: int, seed: int) -> list[Int[Tensor, "_"]]:
    """`k` rows out of several parts laid end to end, without repetition; row numbers within each part."""
    places = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))[:k].sort().values
    starts = torch.tensor([0, *sizes], dtype=torch.int64).cumsum(0)
    return [places[(places >= a) & (places < b)] - a for a, b in pairwise(starts)]


def _rows(held: Tensor, rows: Int[Tensor, "_"]) -> Tensor:
    """What is empty stays empty: scales but in int8, parts but of slices."""
    return held[rows] if len(held) else held
