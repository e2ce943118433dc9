"""The levels of a network: channels must divide into groups, image sizes into halves."""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.errors import InputError

GROUPS = 8
"""Groups of a group norm, everywhere in fedgen: no norm uses statistics of a batch."""


class SizeError(InputError):
    """Images whose size cannot be halved often enough; the text names sizes that fit."""

    def __init__(self, network: str, halvings: int, size: Sequence[int]):
        self.network, self.halvings = network, halvings
        step = 2**halvings
        lower, upper = ([max(step, up * step + n // step * step) for n in size] for up in (0, 1))
        fits = " or ".join(" x ".join(map(str, fit)) for fit in (lower, upper))
        super().__init__(
            f"{network} needs image sizes that are multiples of {step}, got {' x '.join(map(str, size))}; "
            f"set data.size to {fits}, or use fewer widths"
        )


def require_halvings(network: str, halvings: int, size: Sequence[int]) -> None:
    """Raises SizeError, which names the `network`."""
    if any(n % 2**halvings for n in size):
        raise SizeError(network, halvings, size)


def require_widths(widths: Sequence[int]) -> None:
    """Raises ValueError unless the channels of every level divide into groups."""
    if not widths or (wrong := [w for w in widths if w < GROUPS or w % GROUPS]):
        raise ValueError(f"widths must be multiples of {GROUPS}, got {wrong[0] if widths else 'none'}")
