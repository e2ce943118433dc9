"""A model of one hospital loses accuracy on the scanners of the others."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.data.phantom.phantoms import Phantoms
from tests.fedcore.data.phantom.test_phantoms import generator


def features(site: Images) -> Float[Tensor, "n f"]:
    """Largest and root mean square responses of random filters without a mean."""
    filters = torch.randn(64, 1, 7, 7, generator=generator())
    filters = filters - filters.mean((2, 3), keepdim=True)
    found = torch.nn.functional.conv2d(site.batch(list(range(len(site)))), filters)
    return torch.cat([found.amax((2, 3)), found.relu().square().mean((2, 3)).sqrt()], dim=1)


def balanced_accuracy(guess: Tensor, truth: Tensor) -> float:
    return float(torch.stack([(guess[truth == k] == k).float().mean() for k in range(4)]).mean())


@pytest.mark.slow
def test_a_model_of_one_hospital_is_worse_on_the_others() -> None:
    sites = Phantoms(images_per_site=240).cohort(64).sites
    home = sites["hospital_1"].select("train")
    x, targets = features(home), torch.nn.functional.one_hot(home.labels, 4).float()
    mean, std, prior = x.mean(0), x.std(0), targets.mean(0)
    z = (x - mean) / std
    ridge = torch.linalg.solve(z.T @ z + 30 * torch.eye(z.shape[1]), z.T @ (targets - prior))
    scores = {}
    for name, site in sites.items():
        test = site.select("test")
        scores[name] = balanced_accuracy((((features(test) - mean) / std) @ ridge + prior).argmax(1), test.labels)
    own = scores.pop("hospital_1")
    assert own > 0.5
    assert own - max(scores.values()) > 0.15
