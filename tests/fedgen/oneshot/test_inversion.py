from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.ensemble import Ensemble
from fedgen.oneshot.inversion import (
    Inversion,
    codes_of,
    has_running_statistics,
    images_of,
    jensen_shannon,
    logits_and_batch_norm_distance,
    total_variation,
)
from tests.fedgen.members import CLASSES, SIDE, accuracy, members, roughness, shapes

ADAM_ONLY = Inversion(steps=5, tv=0.0, batch_norm=0.0, jitter=0, scales=0)


def network(seed: int, dims: int = 2, channels: int = 1) -> nn.Module:
    """Two batch norms that have seen images, in front of three classes."""
    torch.manual_seed(seed)
    conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dims - 2]
    pool = (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 2](1)
    made = nn.Sequential(
        conv(channels, 4, 3), norm(4), nn.ReLU(), conv(4, 5, 3), norm(5), pool, nn.Flatten(), nn.Linear(5, 3)
    )
    made(torch.randn(6, channels, *[8] * dims) + 1)
    return made


def last(how: Inversion, ensemble: Ensemble, noise: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    *_, images = how.trajectory(ensemble, noise, labels, seed)
    return images


@pytest.mark.parametrize("dims", [2, 3])
def test_total_variation_equals_loops(dims: int) -> None:
    images = torch.randn(2, 2, *[3] * dims)
    total = 0.0
    steps = [(0, 1), (1, -1), (1, 0), (1, 1)]
    if dims == 3:
        steps = [(0, *step) for step in steps] + [(1, a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]  # type: ignore[misc]
    places = list(torch.cartesian_prod(*[torch.arange(3)] * dims))
    for image in images:
        for step in steps:
            squares = 0.0
            for here in places:
                there = here + torch.tensor(step)
                if ((there >= 0) & (there < 3)).all():
                    squares += float(((image[:, *there] - image[:, *here]) ** 2).sum())
            total += math.sqrt(squares) / len(images)
    assert float(total_variation(images)) == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(total_variation(images.flip(2)), total_variation(images))
    assert total_variation(torch.ones_like(images)) == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_the_batch_norm_distance_equals_loops(dims: int) -> None:
    members, images = [network(0, dims), network(1, dims)], torch.randn(4, 1, *[8] * dims)
    logits, distance = logits_and_batch_norm_distance(Ensemble(members), images, first_batch_norm=10.0)
    total, answers = 0.0, []
    for member in members:
        x, weight = images, 10.0
        for layer in member.eval():
            if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
                means, variances = [], []
                for channel in range(x.shape[1]):
                    values = x[:, channel].flatten()
                    means.append(float(values.mean() - layer.running_mean[channel]) ** 2)
                    variances.append(float(((values - values.mean()) ** 2).mean() - layer.running_var[channel]) ** 2)
                total += weight * (math.sqrt(sum(means)) + math.sqrt(sum(variances))) / 2
                weight = 1.0
            x = layer(x)
        answers.append(x)
    assert float(distance) == pytest.approx(total, rel=1e-4)
    torch.testing.assert_close(logits, (answers[0] + answers[1]) / 2)
    assert not any(layer._forward_pre_hooks for member in members for layer in member.modules())


def test_images_with_the_running_statistics_have_distance_0() -> None:
    images, norm = torch.randn(5, 2, 4, 4), nn.BatchNorm2d(2)
    values = images.transpose(0, 1).flatten(1)
    norm.running_mean, norm.running_var = values.mean(1), values.var(1, unbiased=False)
    ensemble = Ensemble([nn.Sequential(norm, nn.Flatten(), nn.Linear(32, 2))])
    assert logits_and_batch_norm_distance(ensemble, images)[1] < 1e-6
    assert logits_and_batch_norm_distance(ensemble, images + 1)[1] > 1


def test_an_ensemble_of_equal_members_equals_one_of_them() -> None:
    one, images = network(0), torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(Ensemble([one])(images), one.eval()(images))
    logits, distance = logits_and_batch_norm_distance(Ensemble([one]), images, 10.0)
    torch.testing.assert_close(logits, one(images))
    of_three = logits_and_batch_norm_distance(Ensemble([one, one, one]), images, 10.0)
    torch.testing.assert_close(of_three, (logits, distance))


def test_the_losses_are_weighted_and_summed() -> None:
    how = Inversion(tv=0.5, l2=0.25, batch_norm=2.0, first_batch_norm=3.0, competition=4.0)
    ensemble, student = Ensemble([network(0)]), network(1)
    images, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    logits, distance = logits_and_batch_norm_distance(ensemble, images, 3.0)
    divergence = jensen_shannon(logits, student.eval()(images))
    lengths = sum(float((image**2).sum()) ** 0.5 for image in images) / 3
    total = cross_entropy(logits, labels) + 0.5 * total_variation(images) + 0.25 * lengths + 2 * distance
    torch.testing.assert_close(how.loss(ensemble, images, labels, student), total + 4 * (1 - divergence))
    torch.testing.assert_close(how.loss(ensemble, images, labels), total)


def test_jensen_shannon_equals_loops() -> None:
    one, other = torch.randn(4, 3), torch.randn(4, 3)
    total = 0.0
    for a, b in zip(one.tolist(), other.tolist(), strict=True):
        p, q = ([math.exp(x / 3) / sum(math.exp(y / 3) for y in row) for x in row] for row in (a, b))
        for x, y in zip(p, q, strict=True):
            total += (x * math.log(2 * x / (x + y)) + y * math.log(2 * y / (x + y))) / 8
    assert float(jensen_shannon(one, other)) == pytest.approx(total, rel=1e-4)
    torch.testing.assert_close(jensen_shannon(one, other), jensen_shannon(other, one))
    assert jensen_shannon(one, one) == 0
    confident = torch.tensor([[1e4, 0.0]])
    assert float(jensen_shannon(confident, -confident)) == pytest.approx(math.log(2))


def test_images_of_a_linear_classifier_change_along_its_weights() -> None:
    linear = nn.Linear(16, 2)
    ensemble = Ensemble([nn.Sequential(nn.Flatten(), linear)])
    noise = torch.zeros(2, 1, 4, 4)
    images = last(ADAM_ONLY, ensemble, noise, torch.tensor([0, 1]))
    along = (linear.weight[0] - linear.weight[1]).sign().view(1, 4, 4)  # Adam's first steps have the gradient's signs
    assert torch.equal(images[0].sign(), along)
    assert torch.equal(images[1].sign(), -along)


@pytest.mark.parametrize("dims", [2, 3])
def test_codes_are_block_means_of_the_noise_of_variance_1(dims: int) -> None:
    noise = torch.randn(3, 2, *[8] * dims, generator=torch.Generator().manual_seed(0))
    half, quarter = codes_of(noise, 2)
    assert (half.shape[2:], quarter.shape[2:]) == ((4,) * dims, (2,) * dims)
    corner = noise[1, 1][(slice(2, 4),) * dims]
    assert float(half[1, 1][(1,) * dims]) == pytest.approx(float(corner.sum()) / corner.numel() ** 0.5, rel=1e-4)
    assert float(half.std()) == pytest.approx(1, abs=0.15)
    assert torch.equal(codes_of(noise, 0)[0], noise)
    assert codes_of(noise[:, :, :5], 2)[1].shape[2] == 2  # a side that 4 does not divide


def test_an_image_is_tanh_of_the_sum_of_its_codes_upsampled() -> None:
    coarse, fine = torch.randn(1, 1, 1, 2), torch.randn(1, 1, 2, 4)
    a, b = coarse.flatten().tolist()
    upsampled = torch.tensor([[[[a, 0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b, b]] * 2]])
    torch.testing.assert_close(images_of([coarse, fine], (2, 4)), torch.tanh(upsampled + fine))


def test_a_trajectory_of_codes_is_adam_on_them() -> None:
    ensemble, labels, noise = Ensemble([network(0)]), torch.tensor([0, 1]), torch.randn(2, 1, 8, 8)
    how = Inversion(steps=3, lr=0.3, jitter=0)
    codes = [nn.Parameter(code) for code in codes_of(noise, 2)]
    adam = torch.optim.Adam(codes, lr=0.3)
    for images in how.trajectory(ensemble, noise, labels, 0):
        adam.zero_grad()
        how.loss(ensemble, images_of(codes, (8, 8)), labels).backward()
        adam.step()
        torch.testing.assert_close(images, images_of(codes, (8, 8)).detach())


def test_coarse_images_are_smoother_and_a_held_out_classifier_classifies_more_of_them() -> None:
    """Two of three classifiers are inverted; the third classifies the images."""
    *inverted, held_out = members()
    ensemble, labels = Ensemble(inverted), torch.arange(24) % CLASSES
    rough, correct = {}, {}
    for scales in (0, 2):
        how = Inversion(steps=40, scales=scales)
        images = last(how, ensemble, noise_of(2, range(24), (1, SIDE, SIDE)), labels)
        assert accuracy(ensemble, images, labels) > 0.9  # the inverted classifiers accept both
        rough[scales], correct[scales] = roughness(images), accuracy(held_out, images, labels)
    real = roughness(shapes(60, seed=9)[0])
    assert abs(rough[2] - real) < 0.1 < 0.6 < rough[0] - real
    assert correct[2] > correct[0] + 0.2


def test_a_trajectory_of_pixels_is_adam_on_the_loss_within_the_range() -> None:
    ensemble, labels = Ensemble([network(0)]), torch.tensor([0, 1])
    how = Inversion(steps=4, lr=0.3, jitter=0, scales=0)
    x = nn.Parameter(torch.randn(2, 1, 8, 8))
    trajectory, noise = list(how.trajectory(ensemble, x.detach(), labels, 0)), x.detach().clone()
    adam = torch.optim.Adam([x], lr=0.3)
    for images in trajectory:
        adam.zero_grad()
        how.loss(ensemble, x, labels).backward()
        adam.step()
        x.data = x.data.clamp(-1, 1)
        torch.testing.assert_close(images, x.data)
    assert not torch.equal(noise, trajectory[0])
    assert all(not torch.equal(a, b) for a, b in pairwise(trajectory))


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 1)])
def test_the_loss_falls_and_the_classifier_is_unchanged(dims: int, channels: int) -> None:
    ensemble, labels = Ensemble([network(0, dims, channels), network(1, dims, channels)]), torch.tensor([0, 1, 2, 0])
    before = {name: t.clone() for name, t in ensemble.state_dict().items()}
    noise = torch.randn(4, channels, *[8] * dims)
    how = Inversion(steps=20, batch_norm=0.1)
    images = last(how, ensemble, noise, labels)
    assert images.shape == noise.shape
    assert images.abs().max() <= 1
    start = images_of(codes_of(noise, how.scales), noise.shape[2:])
    assert how.loss(ensemble, images, labels) < how.loss(ensemble, start, labels)
    assert all(torch.equal(t, before[name]) for name, t in ensemble.state_dict().items())
    assert torch.equal(images, last(how, ensemble, noise, labels))
    assert not torch.equal(images, last(how, ensemble, noise, labels, seed=1))  # rolled by other shifts


def test_competition_gives_images_on_which_the_student_differs() -> None:
    ensemble, student = Ensemble([network(0)]), network(1)
    noise, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    divergence = []
    for weight in (0.0, 1e4):
        how = Inversion(steps=20, batch_norm=0.0, jitter=0, competition=weight)
        *_, images = how.trajectory(ensemble, noise, labels, 0, student)
        divergence.append(jensen_shannon(ensemble(images), student(images)).item())
    assert divergence[1] > divergence[0]
    assert all(p.grad is None for p in student.parameters())


def test_only_batch_norms_with_running_statistics_count() -> None:
    assert has_running_statistics(network(0))
    assert not has_running_statistics(nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1, track_running_stats=False)))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"lr": 0.0}, {"tv": -1.0}, {"jitter": -1}, {"competition": float("nan")}, {"scales": -1}]
)
def test_invalid_settings_are_errors(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, lr positive and all else at least 0"):
        Inversion(**wrong)  # type: ignore[arg-type]
