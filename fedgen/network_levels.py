"""The levels of a network: channels that can be grouped, sizes of images that can be halved."""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.errors import InputError

GROUPS = 8
"""Channels of a group that is normed by itself, everywhere in fedgen: no norm looks at a batch."""


class Uneven(InputError):
    """Images that cannot be halved so often; the text names sizes that can."""

    def __init__(self, who: str, halvings: int, size: Sequence[int]):
        self.who, self.halvings = who, halvings
        step = 2**halvings
        lower, upper = ([max(step, up * step + n // step * step) for n in size] for up in (0, 1))
        fits = " or ".join(" x ".join(map(str, fit)) for fit in (lower, upper))
        super().__init__(
            f"{who} takes sizes that are multiples of {step}, the images are {' x '.join(map(str, size))}; "
            f"set data.size to {fits}, or take fewer widths"
        )


def require_halvings(who: str, halvings: int, size: Sequence[int]) -> None:
    """Raises Uneven, in which `who` names the network."""
    if any(n % 2**halvings for n in size):
        raise Uneven(who, halvings, size)


def require_widths(widths: Sequence[int]) -> None:
    """Raises ValueError unless the channels of every level can be grouped."""
    if not widths or (wrong := [w for w in widths if w < GROUPS or w % GROUPS]):
        raise ValueError(f"widths must be multiples of {GROUPS}, got {wrong[0] if widths else 'none'}")
