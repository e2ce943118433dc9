"""The noise schedule of a diffusion model, x_t = a_t x + s_t e with e standard normal, and what the network predicts.

Time runs from 0, the image, to 1000, noise; diffusers' schedulers, which run the reverse process, count the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

TRAIN_STEPS = 1000
MIN_ALPHA = 0.02
"""The smallest a_t of an epsilon on the cosine schedule, our reading, in training and sampling alike.

The image is (x_t - s_t e) / a_t, and cosine ends at a_t = 5e-5: there an error of 0.01 in e is one of 200 in the
image, and moves the mean of samples by 1.8 at 50 steps. From 0.02 on it moves it by 0.02
(tests/fedgen/diffusion/test_sampler.py). v and flow have no such quotient.
"""


@dataclass(frozen=True)
class NoiseSchedule:
    """How noise is added to an image, what is predicted, and how errors are weighted over time.

    epsilon: e itself (Ho et al. 2020, arXiv 2006.11239). v: a_t e - s_t x (Salimans and Ho 2022, arXiv 2202.00512).
    flow: e - x on the straight path x_t = (1 - t) x + t e (Lipman et al. 2022, arXiv 2210.02747; Liu et al. 2022,
    arXiv 2209.03003), which has no `beta_schedule`.
    """

    prediction_type: Literal["epsilon", "v", "flow"] = "v"
    beta_schedule: Literal["cosine", "linear"] = "cosine"
    """cosine (Nichol and Dhariwal 2021, arXiv 2102.09672) suits small images; linear is that of Ho et al. With
    epsilon, cosine ends at a_t = 0.02 (`MIN_ALPHA`)."""
    snr_gamma: float | None = 5.0
    """gamma of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556), unused with flow; null: equal weights."""

    def __post_init__(self) -> None:
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            raise ValueError(f"snr_gamma must be positive or null, got {self.snr_gamma}")

    @property
    def alphas_cumprod(self) -> Float[Tensor, " t"]:
        """a_t^2 of t = 0 .. 999, from the scheduler that samples, so that both agree to the bit."""
        return _alphas_cumprod(self.prediction_type, self.beta_schedule, torch.device("cpu"))

    @property
    def scheduler_arguments(self) -> dict[str, Any]:
        """`beta_schedule` as arguments of diffusers' schedulers."""
        return _scheduler_arguments(self.prediction_type, self.beta_schedule)

    def sample_times(self, count: int, device: torch.device) -> Float[Tensor, " n"]:
        """Random times, uniform over the schedule."""
        if self.prediction_type == "flow":
            return torch.rand(count, device=device) * TRAIN_STEPS
        return torch.randint(TRAIN_STEPS, (count,), device=device).float()

    def scales(self, times: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """a_t and s_t."""
        if self.prediction_type == "flow":
            return 1 - times / TRAIN_STEPS, times / TRAIN_STEPS
        squares = _alphas_cumprod(self.prediction_type, self.beta_schedule, times.device)[times.long()]
        return squares.sqrt(), (1 - squares).sqrt()

    def add_noise(
        self, images: Float[Tensor, "n c *space"], noise: Float[Tensor, "n c *space"], times: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """x_t."""
        a, s = (per_image(scale, images) for scale in self.scales(times))
        return a * images + s * noise

    def target(
        self, images: Float[Tensor, "n c *space"], noise: Float[Tensor, "n c *space"], times: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """What the network should predict from x_t."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "flow":
            return noise - images
        a, s = (per_image(scale, images) for scale in self.scales(times))
        return a * noise - s * images

    def denoised(
        self, noisy: Float[Tensor, "n c *space"], prediction: Float[Tensor, "n c *space"], times: Float[Tensor, " n"]
    ) -> Float[Tensor, "n c *space"]:
        """The image that a prediction from x_t implies: the inverse of `target`."""
        a, s = (per_image(scale, noisy) for scale in self.scales(times))
        if self.prediction_type == "epsilon":
            return (noisy - s * prediction) / a
        if self.prediction_type == "flow":
            return noisy - s * prediction
        return a * noisy - s * prediction

    def loss_weight(self, times: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Weight of a squared error: that of the image would have min(SNR, gamma), SNR = a_t^2 / s_t^2."""
        if self.snr_gamma is None or self.prediction_type == "flow":
            return torch.ones_like(times)
        a, s = self.scales(times)
        snr = (a / s) ** 2
        # The image's error is the noise's over SNR, and that of v over SNR + 1.
        return snr.clamp(max=self.snr_gamma) / (snr if self.prediction_type == "epsilon" else snr + 1)


@cache
def _scheduler_arguments(prediction_type: str, beta_schedule: str) -> dict[str, Any]:
    from diffusers import DDPMScheduler

    arguments = {"beta_schedule": {"cosine": "squaredcos_cap_v2", "linear": "linear"}[beta_schedule]}
    if (prediction_type, beta_schedule) != ("epsilon", "cosine"):
        return arguments
    squares = MIN_ALPHA**2 + (1 - MIN_ALPHA**2) * DDPMScheduler(**arguments).alphas_cumprod.double()
    return {"trained_betas": (1 - squares / torch.cat([squares.new_ones(1), squares[:-1]])).float().numpy()}


@cache
def _alphas_cumprod(prediction_type: str, beta_schedule: str, device: torch.device) -> Float[Tensor, " t"]:
    """Copied to a device once, since each copy would wait for a GPU."""
    from diffusers import DDPMScheduler

    alphas_cumprod: Tensor = DDPMScheduler(**_scheduler_arguments(prediction_type, beta_schedule)).alphas_cumprod
    return alphas_cumprod.to(device)


def per_image(values: Shaped[Tensor, " n"], images: Float[Tensor, "n c *space"]) -> Tensor:
    """One number per image, in a shape that broadcasts over the images."""
    return values.view(-1, *[1] * (images.dim() - 1))
