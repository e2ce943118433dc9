"""Exchange of feature vectors between sites (FCL: Wu et al. 2021, arXiv 2204.10983).

Every site uploads the newest features of its feature bank; every other site contrasts against a random sample of all
uploaded features. Feature vectors reveal FEATURES, so the policy must allow that level. Local differential privacy is
no remedy (at epsilon 8 a unit vector of 128 numbers keeps a cosine of 0.07 to itself): where features must not be
sent, send statistics (`fedssl.bank.statistics`).
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
from fedcore.messages.message import Message
from fedcore.messages.reveals import FEATURES, STATISTICS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedssl.bank.encoding import Encoding, clip_norms, decode, encode
from fedssl.bank.feature_bank import UNKNOWN_BIN, FeatureBankMethod, site_id


@dataclass(frozen=True)
class SiteVectors(Message):
    """The newest features of one site."""

    recipients: ClassVar[str] = "server, other sites"
    features: Shaped[Tensor, "n d"] = field(metadata=FEATURES)
    scale: Float[Tensor, "m"] = field(metadata=FEATURES)
    """Of each row in int8, else empty."""
    round_index: Int[Tensor, "n"] = field(metadata=STATISTICS)
    """The round in which each feature was made."""
    position_bin: Int[Tensor, "p"] = field(metadata=STATISTICS)
    """The part of the volume that each feature shows; empty where the method has no positions."""


@dataclass(frozen=True)
class VectorPool(Message):
    """The fields of SiteVectors by site: all features at the server, a sample of them in what a site receives."""

    features: Tensors = field(metadata=FEATURES)
    scale: Tensors = field(metadata=FEATURES)
    round_index: Tensors = field(metadata=STATISTICS)
    position_bin: Tensors = field(metadata=STATISTICS)


@dataclass(frozen=True)
class ShareVectors:
    """FCL's exchange: the server keeps one bank per site, replaced whenever the site takes part."""

    upload_size: int = 1024
    """Features that a site uploads, its newest; the server keeps as many of each site."""
    remote_features: int = 1024
    """K: features of other sites that a site receives, a random sample; at most the method's remote_bank_size."""
    encoding: Encoding = "fp16"
    """fp32, fp16, or int8, which halves the bytes of fp16 at a cosine above 0.9999."""

    def __post_init__(self) -> None:
        if self.upload_size < 1 or self.remote_features < 1:
            raise ValueError(
                f"upload_size and remote_features must be at least 1, got {self.upload_size} and {self.remote_features}"
            )

    def start(self) -> VectorPool:
        return VectorPool({}, {}, {}, {})

    def broadcast(self, pool: VectorPool, site: str, turn: Round) -> VectorPool:
        others = sorted(pool.round_index.keys() - {site})
        sizes = [len(pool.round_index[name]) for name in others]
        samples = _sample_rows(sizes, self.remote_features, turn.seed_of(site, "bank"))
        rows = dict(zip(others, samples, strict=True))
        fields = (pool.features, pool.scale, pool.round_index, pool.position_bin)
        return VectorPool(*({name: _select(by_site[name], r) for name, r in rows.items()} for by_site in fields))

    def receive(self, module: FeatureBankMethod, down: VectorPool, turn: Round) -> None:
        bank = module.remote_bank
        received = sum(len(rows) for rows in down.features.values())
        if received > bank.capacity:
            raise Refused(
                f"{received} features of other sites were sent, but the remote bank holds {bank.capacity}; "
                "set the method's remote_bank_size to at least the exchange's remote_features"
            )
        device = bank.features.device
        bank.clear()
        for name, rows in down.features.items():
            # Normalised again here, so a site that sends longer vectors does not get a larger weight.
            features = normalize(decode(rows, down.scale[name]), dim=1).to(device)
            bins = down.position_bin[name].to(device) if len(down.position_bin[name]) else UNKNOWN_BIN
            bank.push(features, site_id(name), down.round_index[name].to(device), bins)

    def collect(self, module: FeatureBankMethod, site: Site, turn: Round) -> SiteVectors:
        features, round_index, bins = module.bank.newest(self.upload_size)
        rows, scale = encode(clip_norms(features), self.encoding)
        sent_bins = bins if bool((bins != UNKNOWN_BIN).any()) else bins[:0]
        return SiteVectors(rows.cpu(), scale.cpu(), round_index.cpu().int(), sent_bins.cpu().to(torch.int16))

    def merge(self, pool: VectorPool, uploads: dict[str, SiteVectors]) -> VectorPool:
        return VectorPool(
            pool.features | {site: up.features for site, up in uploads.items()},
            pool.scale | {site: up.scale for site, up in uploads.items()},
            pool.round_index | {site: up.round_index for site, up in uploads.items()},
            pool.position_bin | {site: up.position_bin for site, up in uploads.items()},
        )

    def error_of(self, pool: VectorPool, upload: SiteVectors) -> str | None:
        rows, width = upload.features.shape
        if rows > self.upload_size:
            return f"it holds {rows} features, and upload_size is {self.upload_size}"
        if any(others.shape[1] != width for others in pool.features.values()):
            return f"its features have {width} numbers, and those of other sites have not"
        scaled = upload.features.dtype == torch.int8
        if len(upload.round_index) != rows or len(upload.position_bin) not in (0, rows):
            return "its features, rounds and positions are not equally many"
        if len(upload.scale) != (rows if scaled else 0):
            return "its features and scales are not equally many"
        return None


def _sample_rows(sizes: Sequence[int], k: int, seed: int) -> list[Int[Tensor, "_"]]:
    """`k` rows of several concatenated tensors, without repetition; row numbers within each tensor."""
    rows = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))[:k].sort().values
    starts = torch.tensor([0, *sizes], dtype=torch.int64).cumsum(0)
    return [rows[(rows >= a) & (rows < b)] - a for a, b in pairwise(starts)]


def _select(tensor: Tensor, rows: Int[Tensor, "_"]) -> Tensor:
    """An empty tensor stays empty: scales unless int8, position bins unless the images are slices."""
    return tensor[rows] if len(tensor) else tensor
