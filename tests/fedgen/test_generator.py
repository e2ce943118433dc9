from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedcore.errors import InputError
from fedgen.generator import UNCONDITIONED, Conditions, drop_conditions

CONDITIONS = Conditions(("cat", "dog"), ("a", "b", "c"))


def test_conditions_are_dropped_together_and_each_alone() -> None:
    """Both: 0.1 together or 0.1 each alone, 0.1 + 0.9 * 0.01; the class alone: 0.9 * 0.1 * 0.9."""
    random = torch.Generator().manual_seed(0)
    labels, sites = drop_conditions(torch.zeros(40_000).long(), torch.ones(40_000).long(), 0.1, random)
    both = (labels == UNCONDITIONED) & (sites == UNCONDITIONED)
    fractions = [
        float(of.float().mean()) for of in (both, (labels == UNCONDITIONED) & ~both, (sites == UNCONDITIONED) & ~both)
    ]
    assert fractions == pytest.approx([0.109, 0.081, 0.081], abs=0.006)
    assert set(labels.tolist()) == {0, UNCONDITIONED}
    assert set(sites.tolist()) == {1, UNCONDITIONED}


def test_the_error_of_an_unknown_condition_names_the_known_ones() -> None:
    assert (
        CONDITIONS.class_index("dog"),
        CONDITIONS.site_index("c"),
        CONDITIONS.class_index(None),
        CONDITIONS.site_index(None),
    ) == (
        1,
        2,
        UNCONDITIONED,
        UNCONDITIONED,
    )
    with pytest.raises(InputError, match="has no class 'cow'; its classes: cat, dog"):
        CONDITIONS.class_index("cow")
    with pytest.raises(InputError, match="has no site 'd'; its sites: a, b, c"):
        CONDITIONS.site_index("d")


def test_image_counts_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="image_counts must have 2 rows \\(classes\\) of 3 numbers"):
        replace(CONDITIONS, image_counts=((1, 2, 3),))
