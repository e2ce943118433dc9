"""The scanner of a simulated hospital: from a clean picture of materials to raw intensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedcore.data.phantom.smooth import blur, upsample

_BIAS_KNOTS = 3  # coil sensitivity varies over a third of the field of view


@dataclass(frozen=True)
class Scanner:
    """raw = gain |bias * blur(tone(clean)) + noise| with complex noise, and so Rician, as in magnitude MR."""

    point_spread: float
    """Standard deviation of the Gaussian point spread, in pixels."""
    noise: float
    """Standard deviation of each of the two noise channels; the signal lies in [0, 1]."""
    bias: float
    """Standard deviation of the logarithm of the smooth multiplicative field."""
    tone: tuple[float, ...]
    """Signal of materials 0, 1/k, ..., 1 (k + 1 numbers in [0, 1]), linear between. Air is material 0."""
    gain: float
    """Raw units of a signal of 1."""

    def __call__(self, clean: Float[Tensor, "n *space"], generator: torch.Generator) -> Float[Tensor, "n *space"]:
        """Scan `clean` materials in [0, 1]; the raw intensities are never negative."""
        signal = blur(self._toned(clean), self.point_spread)
        knots = torch.randn(len(clean), *[_BIAS_KNOTS] * (clean.ndim - 1), generator=generator)
        signal = signal * torch.exp(self.bias * upsample(knots, clean.shape[1:]))
        real, imaginary = self.noise * torch.randn(2, *clean.shape, generator=generator)
        return self.gain * torch.hypot(signal + real, imaginary)

    def _toned(self, clean: Float[Tensor, "n *space"]) -> Float[Tensor, "n *space"]:
        tone = torch.tensor(self.tone)
        position = clean.clamp(0, 1) * (len(tone) - 1)
        left = position.long().clamp(max=len(tone) - 2)
        return torch.lerp(tone[left], tone[left + 1], position - left)


# Chosen by hand to be as different as the scanners of one study can be. Gains differ a thousandfold.
SHARP = Scanner(point_spread=0.4, noise=0.02, bias=0.1, tone=(0.0, 0.25, 0.5, 0.75, 1.0), gain=40_000.0)
BLURRED = Scanner(point_spread=1.1, noise=0.015, bias=0.2, tone=(0.0, 0.5, 0.7, 0.85, 1.0), gain=4_000.0)
NOISY = Scanner(point_spread=0.6, noise=0.08, bias=0.2, tone=(0.0, 0.3, 0.5, 0.65, 0.8), gain=40.0)
INVERTED = Scanner(point_spread=0.6, noise=0.02, bias=0.4, tone=(0.0, 0.9, 0.65, 0.4, 0.1), gain=400.0)


def scanner_of(site: int, seed: int) -> Scanner:
    """The scanner of site number `site` (from 0): the first four chosen by hand, the others random between them."""
    by_hand = (SHARP, BLURRED, NOISY, INVERTED)
    return by_hand[site] if site < len(by_hand) else _random(np.random.default_rng([seed, site]))


def _random(rng: np.random.Generator) -> Scanner:
    materials = np.linspace(0, 1, 5)
    tone = materials ** rng.uniform(0.4, 1.5)
    if rng.random() < 0.3:
        tone[1:] = tone[:0:-1]  # tissues change their order, air stays dark, as in another MR sequence
    return Scanner(
        point_spread=rng.uniform(0.4, 1.3),
        noise=float(np.exp(rng.uniform(np.log(0.01), np.log(0.1)))),
        bias=rng.uniform(0.05, 0.5),
        tone=tuple(tone.tolist()),
        gain=float(np.exp(rng.uniform(np.log(40), np.log(40_000)))),
    )
