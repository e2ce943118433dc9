"""The feature bank: a ring of normalised features that a contrastive loss takes as negatives.

It is state like any other: it starts empty, is saved with the module, stays at its site unless an
exchange sends it, and knows of every entry where it came from, in which round it was made, and which
part of a volume it shows.
"""

from __future__ import annotations

import zlib
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

EMPTY = -1
UNKNOWN = -1
"""The part of an entry that is of no known part of a volume."""


class FeatureBank(nn.Module):
    """Holds the last `capacity` features pushed; the oldest goes out first.

    lightly 1.6's memory bank is in no `state_dict`, drops rows when a batch reaches the end, and
    starts as random vectors; hence a bank of our own.
    """

    features: Float[Tensor, "capacity dim"]
    site: Int[Tensor, "capacity"]
    born: Int[Tensor, "capacity"]
    part: Int[Tensor, "capacity"]
    head: Int[Tensor, ""]

    def __init__(self, capacity: int, dim: int):
        super().__init__()
        if capacity < 1:
            raise ValueError(f"the capacity of a bank must be at least 1, got {capacity}")
        self.register_buffer("features", torch.zeros(capacity, dim))
        self.register_buffer("site", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("born", torch.full((capacity,), EMPTY))
        self.register_buffer("part", torch.full((capacity,), UNKNOWN))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self._filled: int | None = 0
        # Whoever has the state may write into it.
        self.register_state_dict_pre_hook(_forget_count)
        self.register_load_state_dict_post_hook(_forget_count)

    @property
    def capacity(self) -> int:
        return len(self.born)

    @torch.no_grad()
    def push(
        self, features: Float[Tensor, "n dim"], site: int | Int[Tensor, "n"], born: int | Int[Tensor, "n"],
        part: int | Int[Tensor, "n"] = UNKNOWN,
    ) -> None:  # fmt: skip
        """Writes `features` over the oldest entries; of more than `capacity` the last ones stay."""
        n, new = len(features), features[-self.capacity :]
        slots = (self.head + torch.arange(n - len(new), n, device=features.device)) % self.capacity
        self.features[slots] = new.to(self.features.dtype)
        self.site[slots] = _last(site, len(new))
        self.born[slots] = _last(born, len(new))
        self.part[slots] = _last(part, len(new))
        self.head.add_(n).remainder_(self.capacity)
        if self._filled is not None:
            self._filled = min(self.capacity, self._filled + n)

    def clear(self) -> None:
        self.born.fill_(EMPTY)
        self.head.zero_()
        self._filled = 0

    def __len__(self) -> int:
        """Entries that are there, always in the first slots. Known without a look at the device, but after a load."""
        if self._filled is None:
            self._filled = int((self.born != EMPTY).sum())
        return self._filled

    def __bool__(self) -> bool:
        """An empty bank is a bank."""
        return True

    def entries(self) -> Float[Tensor, "n dim"]:
        """The features that are there, in the order of their slots; a view, into which the next push writes."""
        return self.features[: len(self)]

    def parts(self) -> Int[Tensor, "n"]:
        """The part of each of `entries`, a view too."""
        return self.part[: len(self)]

    def newest(self, n: int) -> tuple[Float[Tensor, "m dim"], Int[Tensor, "m"], Int[Tensor, "m"]]:
        """The last `n` features pushed (fewer if it holds fewer), oldest first, their rounds and their parts."""
        slots = (self.head + torch.arange(-min(n, len(self)), 0, device=self.born.device)) % self.capacity
        return self.features[slots], self.born[slots], self.part[slots]

    def ages(self, now: int) -> Int[Tensor, "n"]:
        """Rounds since each entry was made."""
        return now - self.born[: len(self)]


def _forget_count(bank: FeatureBank, *_: object) -> None:
    bank._filled = None


@runtime_checkable
class Banked(Protocol):
    """A module with its own keys in `bank` and those of other sites in `remote`, filled by an exchange."""

    bank: FeatureBank
    remote: FeatureBank


def site_number(name: str) -> int:
    """The number that stands for a site in a bank; needs no list of sites that all would have to share."""
    return zlib.crc32(name.encode())


def _last(value: int | Tensor, n: int) -> int | Tensor:
    return value[-n:].long() if isinstance(value, Tensor) else value
