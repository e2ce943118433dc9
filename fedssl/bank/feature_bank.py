"""The feature bank (memory bank, queue): normalised features that a contrastive loss takes as negatives.

A ring buffer. It starts empty, is saved with the module, and stays at its site unless an exchange sends its content.
For each feature it stores the site, the round in which it was made, and the position bin: the part of a volume that
the slice shows.
"""

from __future__ import annotations

import zlib
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

EMPTY_SLOT = -1
UNKNOWN_BIN = -1
"""Position bin of a feature whose position in a volume is unknown."""


class FeatureBank(nn.Module):
    """Stores the last `capacity` features pushed; new features overwrite the oldest.

    Why not lightly's: the memory bank of lightly 1.6 is in no `state_dict`, drops rows when a batch reaches the end,
    and starts with random vectors.
    """

    scratch = ("_size",)

    features: Float[Tensor, "capacity dim"]
    site_id: Int[Tensor, "capacity"]
    round_index: Int[Tensor, "capacity"]
    position_bin: Int[Tensor, "capacity"]
    next_slot: Int[Tensor, ""]

    def __init__(self, capacity: int, dim: int):
        super().__init__()
        if capacity < 1:
            raise ValueError(f"the capacity of a feature bank must be at least 1, got {capacity}")
        self.register_buffer("features", torch.zeros(capacity, dim))
        self.register_buffer("site_id", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("round_index", torch.full((capacity,), EMPTY_SLOT))
        self.register_buffer("position_bin", torch.full((capacity,), UNKNOWN_BIN))
        self.register_buffer("next_slot", torch.zeros((), dtype=torch.int64))
        self._size: int | None = 0
        # Code that has the state may write into it, so the cached size is no longer valid.
        self.register_state_dict_pre_hook(_forget_size)
        self.register_load_state_dict_post_hook(_forget_size)

    @property
    def capacity(self) -> int:
        return len(self.round_index)

    @torch.no_grad()
    def push(
        self, features: Float[Tensor, "n dim"], site_id: int | Int[Tensor, "n"], round_index: int | Int[Tensor, "n"],
        position_bin: int | Int[Tensor, "n"] = UNKNOWN_BIN,
    ) -> None:  # fmt: skip
        """Writes `features` over the oldest ones; of more than `capacity` features the last ones stay."""
        n, new = len(features), features[-self.capacity :]
        slots = (self.next_slot + torch.arange(n - len(new), n, device=features.device)) % self.capacity
        self.features[slots] = new.to(self.features.dtype)
        self.site_id[slots] = _last(site_id, len(new))
        self.round_index[slots] = _last(round_index, len(new))
        self.position_bin[slots] = _last(position_bin, len(new))
        self.next_slot.add_(n).remainder_(self.capacity)
        if self._size is not None:
            self._size = min(self.capacity, self._size + n)

    def clear(self) -> None:
        self.round_index.fill_(EMPTY_SLOT)
        self.next_slot.zero_()
        self._size = 0

    def __len__(self) -> int:
        """Number of stored features, which are always in the first slots. Reads the device only after a load."""
        if self._size is None:
            self._size = int((self.round_index != EMPTY_SLOT).sum())
        return self._size

    def __bool__(self) -> bool:
        """True also for an empty bank, so that `if bank` means "is there a bank"."""
        return True

    def entries(self) -> Float[Tensor, "n dim"]:
        """The stored features in the order of their slots; a view, so the next push changes it."""
        return self.features[: len(self)]

    def entry_bins(self) -> Int[Tensor, "n"]:
        """The position bin of each of `entries()`; a view as well."""
        return self.position_bin[: len(self)]

    def newest(self, n: int) -> tuple[Float[Tensor, "m dim"], Int[Tensor, "m"], Int[Tensor, "m"]]:
        """The last `n` features pushed (or all, if fewer), oldest first, with their rounds and position bins."""
        slots = (self.next_slot + torch.arange(-min(n, len(self)), 0, device=self.round_index.device)) % self.capacity
        return self.features[slots], self.round_index[slots], self.position_bin[slots]

    def ages(self, current_round: int) -> Int[Tensor, "n"]:
        """Rounds since each of `entries()` was made."""
        return current_round - self.round_index[: len(self)]


def _forget_size(bank: FeatureBank, *_: object) -> None:
    bank._size = None


@runtime_checkable
class FeatureBankMethod(Protocol):
    """A module with its own keys in `bank` and those of other sites in `remote_bank`, which an exchange fills."""

    bank: FeatureBank
    remote_bank: FeatureBank


def site_id(name: str) -> int:
    """The number of a site in a bank: a checksum of its name, so that sites need no common list of sites."""
    return zlib.crc32(name.encode())


def _last(value: int | Tensor, n: int) -> int | Tensor:
    return value[-n:].long() if isinstance(value, Tensor) else value
