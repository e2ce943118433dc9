"""Scanners: point spread, tone, noise, and which site has which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedcore.data.phantom.scanner import SHARP, scanner_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_ideal_scanner_changes_nothing() -> None:
    clean = torch.rand(3, 8, 9, generator=generator())
    ideal = replace(SHARP, point_spread=1e-3, noise=0.0, bias=0.0, gain=1.0)
    assert torch.allclose(ideal(clean, generator()), clean, atol=1e-6)


def test_a_tone_curve_is_linear_between_its_knots() -> None:
    ideal = replace(SHARP, point_spread=1e-3, noise=0.0, bias=0.0, gain=1.0, tone=(0.0, 0.8, 0.2))
    clean = torch.tensor([[[0, 0.25, 0.5, 0.75, 1]]])
    assert torch.allclose(ideal(clean, generator()), torch.tensor([[[0, 0.4, 0.8, 0.5, 0.2]]]), atol=1e-6)


def test_noise_is_rician() -> None:
    air = replace(SHARP, noise=0.1, gain=1.0)(torch.zeros(1, 200, 200), generator())
    assert air.min() >= 0
    assert air.mean() == pytest.approx(0.1 * (np.pi / 2) ** 0.5, rel=0.02)  # the mean of a Rayleigh


def test_scanners_depend_on_seed_and_site_alone() -> None:
    assert scanner_of(7, seed=0) == scanner_of(7, seed=0)
    assert len({scanner_of(site, seed=0) for site in range(20)}) == 20
    assert scanner_of(7, seed=0) != scanner_of(7, seed=1)
    assert scanner_of(0, seed=0) == scanner_of(0, seed=1)
