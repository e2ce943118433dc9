"""How an image becomes noise, and what a network is taught of the way: x_t = a_t x + s_t e, e standard normal.

Time runs from 0, the image, to 1000, noise; diffusers' schedulers, which walk it back, count the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

STEPS = 1000
LEAST = 0.02
"""The least a_t of an epsilon on the cosine schedule, our reading, in training and sampling alike.

The image is (x_t - s_t e) / a_t, and cosine ends at a_t = 5e-5: there an error of 0.01 in e is one of 200 in the
image, and moves the mean of samples by 1.8 at 50 steps. From 0.02 on it moves it by 0.02
(tests/fedgen/diffusion/test_sampler.py). v and flow have no such quotient.
"""


@dataclass(frozen=True)
class Noise:
    """A noising process and what is predicted of it.

    epsilon: e itself (Ho et al. 2020, arXiv 2006.11239). v: a_t e - s_t x (Salimans and Ho 2022, arXiv 2202.00512).
    flow: e - x on the straight way x_t = (1 - t) x + t e (Lipman et al. 2022, arXiv 2210.02747; Liu et al. 2022,
    arXiv 2209.03003), which has no `schedule`.
    """

    predicts: Literal["epsilon", "v", "flow"] = "v"
    schedule: Literal["cosine", "linear"] = "cosine"
    """Of a_t: cosine (Nichol and Dhariwal 2021, arXiv 2102.09672) suits small images, linear is Ho et al.'s. Of
    epsilon, cosine ends at a_t = 0.02 (`LEAST`)."""
    min_snr: float | None = 5.0
    """gamma of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556), for all but flow; null weighs all alike."""

    def __post_init__(self) -> None:
        if self.min_snr is not None and self.min_snr <= 0:
            raise ValueError(f"min_snr must be positive or null, got {self.min_snr}")

    @property
    def kept(self) -> Float[Tensor, " t"]:
        """a_t^2 of t = 0 .. 999, from the scheduler that samples, so that both agree to the bit."""
        return _kept(self.predicts, self.schedule, torch.device("cpu"))

    @property
    def betas(self) -> dict[str, Any]:
        """`schedule` as diffusers' schedulers take it."""
        return _betas(self.predicts, self.schedule)

    def times(self, count: int, device: torch.device) -> Float[Tensor, " n"]:
        """Random times, evenly over the way."""
        if self.predicts == "flow":
            return torch.rand(count, device=device) * STEPS
        return torch.randint(STEPS, (count,), device=device).float()

    def scales(self, times: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """a_t and s_t."""
        if self.predicts == "flow":
            return 1 - times / STEPS, times / STEPS
        kept = _kept(self.predicts, self.schedule, times.device)[times.long()]
        return kept.sqrt(), (1 - kept).sqrt()

    def mix(
        self, images: Float[Tensor, "n c *space"], noise: Float[Tensor, "n c *space"], times: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """x_t."""
        a, s = (over(scale, images) for scale in self.scales(times))
        return a * images + s * noise

    def target(
        self, images: Float[Tensor, "n c *space"], noise: Float[Tensor, "n c *space"], times: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """What the network has to say of x_t."""
        if self.predicts == "epsilon":
            return noise
        if self.predicts == "flow":
            return noise - images
        a, s = (over(scale, images) for scale in self.scales(times))
        return a * noise - s * images

    def image(
        self, mixed: Float[Tensor, "n c *space"], said: Float[Tensor, "n c *space"], times: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """The image that x_t is of if `said` is right of it: `target` turned round."""
        a, s = (over(scale, mixed) for scale in self.scales(times))
        if self.predicts == "epsilon":
            return (mixed - s * said) / a
        if self.predicts == "flow":
            return mixed - s * said
        return a * mixed - s * said

    def weight(self, times: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Of a time's squared error: min(SNR, gamma) of the image's error, SNR = a_t^2 / s_t^2."""
        if self.min_snr is None or self.predicts == "flow":
            return torch.ones_like(times)
        a, s = self.scales(times)
        snr = (a / s) ** 2
        # The image's error is the noise's over SNR, and that of v over SNR + 1.
        return snr.clamp(max=self.min_snr) / (snr if self.predicts == "epsilon" else snr + 1)


@cache
def _betas(predicts: str, schedule: str) -> dict[str, Any]:
    from diffusers import DDPMScheduler

    named = {"beta_schedule": {"cosine": "squaredcos_cap_v2", "linear": "linear"}[schedule]}
    if (predicts, schedule) != ("epsilon", "cosine"):
        return named
    kept = LEAST**2 + (1 - LEAST**2) * DDPMScheduler(**named).alphas_cumprod.double()
    return {"trained_betas": (1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])).float().numpy()}


@cache
def _kept(predicts: str, schedule: str, device: torch.device) -> Float[Tensor, " t"]:
    """Copied once to a device: each copy would wait for a GPU."""
    from diffusers import DDPMScheduler

    kept: Tensor = DDPMScheduler(**_betas(predicts, schedule)).alphas_cumprod
    return kept.to(device)


def over(scale: Shaped[Tensor, " n"], images: Float[Tensor, "n c *space"]) -> Tensor:
    """A number an image in a shape that multiplies it."""
    return scale.view(-1, *[1] * (images.dim() - 1))
