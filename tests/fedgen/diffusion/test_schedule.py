from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedgen.diffusion.schedule import STEPS, Noise

PREDICTED = ["epsilon", "v", "flow"]
TIMES = torch.tensor([0.0, 1.0, 250.0, 500.0, 999.0])


def pixels(seed: int) -> Tensor:
    return torch.randn(len(TIMES), 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def test_cosine_schedule_is_the_papers() -> None:
    """Eq. 17 of Nichol and Dhariwal: abar is a quotient of squared cosines, with steps of at most 0.999."""

    def f(t: float) -> float:
        return math.cos((t / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2

    kept, expected = 1.0, []
    for t in range(STEPS):
        kept *= 1 - min(1 - f(t + 1) / f(t), 0.999)
        expected.append(kept)
    assert torch.allclose(Noise(schedule="cosine").kept, torch.tensor(expected), rtol=1e-4, atol=1e-9)


def test_an_epsilon_on_the_cosine_schedule_ends_where_the_image_can_still_be_told() -> None:
    """And hardly differs before: a_t^2 by 0.0004 at most."""
    lifted, paper = Noise("epsilon", "cosine").kept, Noise("v", "cosine").kept
    assert lifted.min().sqrt() == pytest.approx(0.02, rel=1e-3)
    assert (lifted.diff() < 0).all()
    assert (lifted - paper).abs().max() <= 4.1e-4
    assert torch.equal(Noise("epsilon", "linear").kept, Noise("v", "linear").kept)


def test_linear_schedule_is_the_papers() -> None:
    kept, expected = 1.0, []
    for t in range(STEPS):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * t / (STEPS - 1))
        expected.append(kept)
    assert torch.allclose(Noise(schedule="linear").kept, torch.tensor(expected), rtol=1e-3)


@pytest.mark.parametrize("predicts", PREDICTED)
def test_what_is_predicted_gives_image_and_noise_back(predicts: str) -> None:
    """x_t and the target are two equations for x and e; solved one sample at a time."""
    noise, x, e = Noise(predicts), pixels(0), pixels(1)  # type: ignore[arg-type]
    mixed, target = noise.mix(x, e, TIMES), noise.target(x, e, TIMES)
    scale, spread = noise.scales(TIMES)
    for i in range(len(TIMES)):
        a, s = float(scale[i]), float(spread[i])
        if predicts == "epsilon":
            image = (mixed[i] - s * target[i]) / a
            assert torch.allclose(target[i], e[i])
        elif predicts == "v":
            image = a * mixed[i] - s * target[i]
            assert torch.allclose(s * mixed[i] + a * target[i], e[i], atol=1e-5)
        else:
            image = mixed[i] - s * target[i]
            assert torch.allclose(image + target[i], e[i], atol=1e-5)
        assert torch.allclose(image, x[i], atol=1e-5 / a)


@pytest.mark.parametrize("predicts", ["epsilon", "v"])
def test_variance_is_kept_and_flow_goes_straight(predicts: str) -> None:
    a, s = Noise(predicts).scales(TIMES)  # type: ignore[arg-type]
    assert torch.allclose(a**2 + s**2, torch.ones(len(TIMES)))
    a, s = Noise("flow").scales(TIMES)
    assert torch.allclose(a + s, torch.ones(len(TIMES)))


@pytest.mark.parametrize("predicts", ["epsilon", "v"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_weights_are_min_snr_of_the_images_error(predicts: str, gamma: float) -> None:
    """An error d of the network is an error of the image of s/a d (epsilon) or s d (v); weigh its square."""
    noise = Noise(predicts, min_snr=gamma)  # type: ignore[arg-type]
    for t, weight in zip(TIMES, noise.weight(TIMES), strict=True):
        a, s = (float(scale) for scale in noise.scales(t.view(1)))
        snr = a * a / (s * s)
        image = (s / a) ** 2 if predicts == "epsilon" else s * s
        assert float(weight) == pytest.approx(min(snr, gamma) * image, rel=1e-3)


def test_without_gamma_and_for_flow_all_times_weigh_alike() -> None:
    for noise in (Noise("v", min_snr=None), Noise("flow")):
        assert torch.equal(noise.weight(TIMES), torch.ones(len(TIMES)))


@pytest.mark.parametrize("predicts", PREDICTED)
def test_times_are_spread_over_the_way(predicts: str) -> None:
    torch.manual_seed(0)
    times = Noise(predicts).times(4000, torch.device("cpu"))  # type: ignore[arg-type]
    assert times.min() >= 0
    assert times.max() <= STEPS - (predicts != "flow")
    assert times.mean() == pytest.approx(STEPS / 2, rel=0.03)


def test_gamma_must_be_positive() -> None:
    with pytest.raises(ValueError, match="min_snr must be positive or null, got 0"):
        Noise(min_snr=0.0)


@pytest.mark.parametrize("predicts", PREDICTED)
def test_the_image_is_found_again_from_the_target(predicts: str) -> None:
    process, images, noise = Noise(predicts), pixels(0), pixels(1)  # type: ignore[arg-type]
    mixed, target = process.mix(images, noise, TIMES), process.target(images, noise, TIMES)
    assert torch.allclose(process.image(mixed, target, TIMES), images, atol=1e-4)
