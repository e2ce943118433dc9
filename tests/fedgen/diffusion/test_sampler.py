from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.diffusion.schedule import NoiseSchedule

STD = 0.3


def oracle(schedule: NoiseSchedule, error: float = 0.0) -> object:
    """The exact predictor of images N(0, STD^2), the mean of the target given x_t; plus an `error`."""

    def predict(images: Tensor, times: Tensor) -> Tensor:
        a, s = (scale.view(-1, 1, 1, 1) for scale in schedule.scales(times))
        share = images / (a**2 * STD**2 + s**2)
        image, noise = a * STD**2 * share, s * share
        return {"epsilon": noise, "v": a * noise - s * image, "flow": noise - image}[schedule.prediction_type] + error

    return predict


def std_of(sampler: Sampler, schedule: NoiseSchedule) -> float:
    noise = torch.randn(
        50, 1, 1, 1, generator=torch.Generator().manual_seed(0)
    )  # the trajectory of the oracle is linear
    return float(sampler.sample(oracle(schedule), noise, schedule).std() / noise.std())  # type: ignore[arg-type]


def test_the_default_sampler_matches_a_gaussian() -> None:
    """Within 2 % of its standard deviation at 50 steps; MONAI 1.6.1's DDPMScheduler is 197 % off."""
    assert std_of(Sampler(), NoiseSchedule()) == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("beta_schedule", ["cosine", "linear"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
@pytest.mark.parametrize(("solver", "within"), [("dpm", 0.02), ("ddim", 0.09)])
def test_both_solvers_match_it_within_their_order(
    beta_schedule: str, prediction_type: str, solver: str, within: float
) -> None:
    schedule = NoiseSchedule(prediction_type, beta_schedule)  # type: ignore[arg-type]
    assert std_of(Sampler(50, solver), schedule) == pytest.approx(STD, rel=within)  # type: ignore[arg-type]
    assert std_of(Sampler(500, solver), schedule) == pytest.approx(STD, rel=0.02)  # type: ignore[arg-type]


@pytest.mark.parametrize("beta_schedule", ["cosine", "linear"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
@pytest.mark.parametrize("solver", ["dpm", "ddim"])
def test_a_small_prediction_error_moves_the_mean_little(beta_schedule: str, prediction_type: str, solver: str) -> None:
    """0.01 in every prediction moves the mean of the samples by 0.03 at most; with the cosine schedule of the paper it
    would be 1.8 for epsilon at 50 steps."""
    schedule, sampler = NoiseSchedule(prediction_type, beta_schedule), Sampler(50, solver)  # type: ignore[arg-type]
    noise = torch.randn(500, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    right, wrong = (sampler.sample(oracle(schedule, error), noise, schedule) for error in (0.0, 0.01))  # type: ignore[arg-type]
    assert 0.0 < float((wrong - right).mean().abs()) < 0.03


def test_flow_is_solved_by_euler() -> None:
    assert std_of(Sampler(50), NoiseSchedule("flow")) == pytest.approx(STD, rel=0.04)
    assert std_of(Sampler(500), NoiseSchedule("flow")) == pytest.approx(STD, rel=0.01)


@pytest.mark.parametrize("solver", ["dpm", "ddim"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v", "flow"])
def test_a_trajectory_ends_at_its_last_denoised_image(solver: str, prediction_type: str) -> None:
    sampler, schedule = Sampler(8, solver), NoiseSchedule(prediction_type)  # type: ignore[arg-type]
    noise = torch.randn(5, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    steps = list(sampler.trajectory(oracle(schedule), noise, schedule))  # type: ignore[arg-type]
    assert len(steps) == 8  # 125 times each: where steps do not divide 1000, diffusers' DDIM ends at time 0
    assert all(torch.equal(one.next_noisy, other.noisy) for one, other in pairwise(steps))
    images = sampler.sample(oracle(schedule), noise, schedule)  # type: ignore[arg-type]
    assert torch.equal(steps[-1].next_noisy, images)
    last = schedule.denoised(steps[-1].noisy, steps[-1].prediction, steps[-1].times)
    assert torch.allclose(last, images, atol=1e-3)


def test_noise_depends_on_the_sample_and_not_on_its_batch() -> None:
    shape = (1, 4, 4)
    whole = noise_of(7, range(6), shape)
    apart = torch.cat([noise_of(7, [0, 1, 2, 3], shape), noise_of(7, [4, 5], shape)])
    assert torch.equal(whole, apart)
    assert not torch.equal(whole, noise_of(8, range(6), shape))


def test_ten_thousand_samples_have_different_noise() -> None:
    noise = noise_of(0, range(10_000), (2,))
    assert len(np.unique(noise.numpy(), axis=0)) == 10_000
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("steps", "guidance"), [(0, 1.0), (1001, 1.0), (50, -1.0)])
def test_settings_out_of_range_are_refused(steps: int, guidance: float) -> None:
    with pytest.raises(ValueError, match=r"steps must lie in 1\.\.1000 and guidance be 0 or more"):
        Sampler(steps, guidance=guidance)
