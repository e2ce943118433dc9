from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedssl.evaluation.linear import linear_probe


def blobs(n: int, seed: int, classes: int = 3, width: int = 5) -> tuple[Tensor, Tensor]:
    """Gaussian clouds around corners of a cube, one per class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 3 * torch.eye(width)[:classes]
    return centres[labels] + torch.randn(n, width, generator=generator), labels


def test_the_probe_equals_gradient_descent_on_the_objective() -> None:
    """Softmax regression with its gradient written out, in many small steps."""
    train, labels = blobs(60, 0)
    test, _ = blobs(200, 1)
    mean, std = train.mean(0), train.std(0, correction=0)
    x, y = ((t - mean) / std for t in (train, test))
    target = torch.eye(3)[labels]
    weight, bias = torch.zeros(5, 3), torch.zeros(3)
    for _ in range(8000):
        error = (x @ weight + bias).softmax(1) - target
        weight -= 0.5 * (x.T @ error / 60 + 0.01 * weight)
        bias -= 0.5 * error.mean(0)
    assert torch.equal(linear_probe(train, labels, test, l2_penalty=0.01, max_iter=500), (y @ weight + bias).argmax(1))


@given(st.floats(0.01, 100), st.floats(-5, 5), st.integers(0, 99))
def test_scale_and_shift_of_a_feature_do_not_matter(scale: float, shift: float, seed: int) -> None:
    (train, labels), (test, _) = blobs(45, seed), blobs(60, seed + 1)
    change = torch.tensor([scale, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    moved = [t.double() * change + shift for t in (train, test)]
    same = linear_probe(train.double(), labels, test.double()) == linear_probe(moved[0], labels, moved[1])
    assert same.double().mean() > 0.95  # except for points on a decision border


def test_class_numbers_are_kept_and_absent_classes_never_predicted() -> None:
    train, labels = blobs(60, 0)
    test, truth = blobs(60, 1)
    predicted = linear_probe(train, labels * 4 + 1, test)
    assert set(predicted.tolist()) <= {1, 5, 9}
    assert (predicted == truth * 4 + 1).float().mean() > 0.9


def test_a_constant_feature_does_no_harm() -> None:
    train, labels = blobs(60, 0)
    test, truth = blobs(60, 1)
    train[:, 4], test[:, 4] = 7.0, 7.0
    assert (linear_probe(train, labels, test) == truth).float().mean() > 0.9


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_probe_trains_within_inference_mode_and_no_grad(mode: type[torch.no_grad]) -> None:
    with mode():
        (train, labels), (test, truth) = blobs(60, 0), blobs(60, 1)
        inside = linear_probe(train, labels, test)
    assert torch.equal(inside, linear_probe(train.clone(), labels.clone(), test.clone()))
    assert (inside == truth.clone()).float().mean() > 0.9
