from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedgen.diffusion.schedule import TRAIN_STEPS, NoiseSchedule

PREDICTION_TYPES = ["epsilon", "v", "flow"]
TIMES = torch.tensor([0.0, 1.0, 250.0, 500.0, 999.0])


def pixels(seed: int) -> Tensor:
    return torch.randn(len(TIMES), 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def test_the_cosine_schedule_is_the_papers() -> None:
    """Eq. 17 of Nichol and Dhariwal: abar is a quotient of squared cosines, with steps of at most 0.999."""

    def f(t: float) -> float:
        return math.cos((t / TRAIN_STEPS + 0.008) / 1.008 * math.pi / 2) ** 2

    square, expected = 1.0, []
    for t in range(TRAIN_STEPS):
        square *= 1 - min(1 - f(t + 1) / f(t), 0.999)
        expected.append(square)
    assert torch.allclose(
        NoiseSchedule(beta_schedule="cosine").alphas_cumprod, torch.tensor(expected), rtol=1e-4, atol=1e-9
    )


def test_epsilon_on_the_cosine_schedule_ends_at_the_minimal_alpha() -> None:
    """And hardly differs before the end: a_t^2 by 0.0004 at most."""
    limited, paper = NoiseSchedule("epsilon", "cosine").alphas_cumprod, NoiseSchedule("v", "cosine").alphas_cumprod
    assert limited.min().sqrt() == pytest.approx(0.02, rel=1e-3)
    assert (limited.diff() < 0).all()
    assert (limited - paper).abs().max() <= 4.1e-4
    assert torch.equal(NoiseSchedule("epsilon", "linear").alphas_cumprod, NoiseSchedule("v", "linear").alphas_cumprod)


def test_the_linear_schedule_is_the_papers() -> None:
    square, expected = 1.0, []
    for t in range(TRAIN_STEPS):
        square *= 1 - (1e-4 + (0.02 - 1e-4) * t / (TRAIN_STEPS - 1))
        expected.append(square)
    assert torch.allclose(NoiseSchedule(beta_schedule="linear").alphas_cumprod, torch.tensor(expected), rtol=1e-3)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_determines_image_and_noise(prediction_type: str) -> None:
    """x_t and the target are two equations for x and e; solved one sample at a time."""
    schedule, x, e = NoiseSchedule(prediction_type), pixels(0), pixels(1)  # type: ignore[arg-type]
    noisy, target = schedule.add_noise(x, e, TIMES), schedule.target(x, e, TIMES)
    signal, scale = schedule.scales(TIMES)
    for i in range(len(TIMES)):
        a, s = float(signal[i]), float(scale[i])
        if prediction_type == "epsilon":
            image = (noisy[i] - s * target[i]) / a
            assert torch.allclose(target[i], e[i])
        elif prediction_type == "v":
            image = a * noisy[i] - s * target[i]
            assert torch.allclose(s * noisy[i] + a * target[i], e[i], atol=1e-5)
        else:
            image = noisy[i] - s * target[i]
            assert torch.allclose(image + target[i], e[i], atol=1e-5)
        assert torch.allclose(image, x[i], atol=1e-5 / a)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
def test_the_variance_is_preserved_and_flow_is_straight(prediction_type: str) -> None:
    a, s = NoiseSchedule(prediction_type).scales(TIMES)  # type: ignore[arg-type]
    assert torch.allclose(a**2 + s**2, torch.ones(len(TIMES)))
    a, s = NoiseSchedule("flow").scales(TIMES)
    assert torch.allclose(a + s, torch.ones(len(TIMES)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_loss_weights_are_min_snr_of_the_images_error(prediction_type: str, gamma: float) -> None:
    """An error d of the prediction is an error of the image of s/a d (epsilon) or s d (v), whose square is weighted."""
    schedule = NoiseSchedule(prediction_type, snr_gamma=gamma)  # type: ignore[arg-type]
    for t, weight in zip(TIMES, schedule.loss_weight(TIMES), strict=True):
        a, s = (float(scale) for scale in schedule.scales(t.view(1)))
        snr = a * a / (s * s)
        image = (s / a) ** 2 if prediction_type == "epsilon" else s * s
        assert float(weight) == pytest.approx(min(snr, gamma) * image, rel=1e-3)


def test_without_gamma_and_for_flow_all_weights_are_one() -> None:
    for schedule in (NoiseSchedule("v", snr_gamma=None), NoiseSchedule("flow")):
        assert torch.equal(schedule.loss_weight(TIMES), torch.ones(len(TIMES)))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_times_are_uniform_over_the_schedule(prediction_type: str) -> None:
    torch.manual_seed(0)
    times = NoiseSchedule(prediction_type).sample_times(4000, torch.device("cpu"))  # type: ignore[arg-type]
    assert times.min() >= 0
    assert times.max() <= TRAIN_STEPS - (prediction_type != "flow")
    assert times.mean() == pytest.approx(TRAIN_STEPS / 2, rel=0.03)


def test_gamma_must_be_positive() -> None:
    with pytest.raises(ValueError, match="snr_gamma must be positive or null, got 0"):
        NoiseSchedule(snr_gamma=0.0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_denoised_inverts_the_target(prediction_type: str) -> None:
    schedule, images, noise = NoiseSchedule(prediction_type), pixels(0), pixels(1)  # type: ignore[arg-type]
    noisy, target = schedule.add_noise(images, noise, TIMES), schedule.target(images, noise, TIMES)
    assert torch.allclose(schedule.denoised(noisy, target, TIMES), images, atol=1e-4)
