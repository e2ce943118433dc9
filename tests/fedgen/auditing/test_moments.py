from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedcore.messages.message import exposure
from fedcore.messages.reveals import Reveals
from fedgen.auditing.moments import MIN_IMAGES, Moments, frechet, pooled


def features(seed: int, count: int = 40, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, 6, generator=generator) @ mixing + shift


def test_moments_are_those_of_the_features() -> None:
    seen = features(0).double()
    moments = Moments.of(features(0))
    assert torch.allclose(moments.mean, seen.mean(0))
    assert torch.allclose(moments.covariance, seen.T.cov())
    assert exposure(moments) == Reveals.STATISTICS


def test_the_federated_distance_is_the_pooled_one() -> None:
    sites = [features(seed, count, shift) for seed, count, shift in ((0, 30, 0.0), (1, 7, 3.0), (2, 90, -1.0))]
    drawn = features(5, 50, 0.5)
    apart = frechet(pooled(Moments.of(site) for site in sites), Moments.of(drawn))
    all_groups = frechet(Moments.of(torch.cat(sites)), Moments.of(drawn))
    assert apart == pytest.approx(all_groups, rel=1e-9)


def test_the_order_of_sites_and_sides_does_not_matter() -> None:
    a, b, c = (Moments.of(features(seed)) for seed in range(3))
    assert frechet(pooled([a, b]), c) == pytest.approx(frechet(c, pooled([b, a])), rel=1e-9)


def test_gaussians_on_a_line_by_hand() -> None:
    """(mu_a - mu_b)^2 + (sigma_a - sigma_b)^2 in one dimension."""
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0], [9.0]])
    expected = (1 - 5) ** 2 + (math.sqrt(2) - 4) ** 2
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-9)


def test_a_set_has_distance_0_from_itself_even_with_few_images() -> None:
    for count in (2, 4, 40):
        moments = Moments.of(features(0, count))
        assert frechet(moments, moments) == pytest.approx(0, abs=1e-5)


def test_the_distance_equals_that_of_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Same(nn.Module):
        num_features = 6

        def forward(self, images: Tensor) -> Tensor:
            return images

    reference = FrechetInceptionDistance(feature=Same(), normalize=True, input_img_size=(6,)).set_dtype(torch.float64)
    a, b = features(0).double(), features(1, shift=0.3).double()
    reference.update(a, real=True)
    reference.update(b, real=False)
    assert frechet(Moments.of(a), Moments.of(b)) == pytest.approx(float(reference.compute()), rel=1e-6)


def test_one_image_is_too_few() -> None:
    with pytest.raises(ValueError, match="needs 2 images on each side, got 1 and 40"):
        frechet(Moments.of(features(0, 1)), Moments.of(features(1)))


@pytest.mark.parametrize(
    ("counts", "without", "groups"),
    [
        ([30, 25, 40], 0, [30, 25, 40, 0]),
        ([30, 1, 40], 0, [0, 0, 40, 31]),  # the moments of one image reveal it, also as a rest of all others
        ([30, 12, 40], 12, [30, 0, 40, 24]),
        ([30, 25, 40], 3, [30, 0, 40, 28]),
        ([5, 6, 7], 0, [0, 0, 0, 0]),  # too few in all
        ([5, 6, 7], 4, [0, 0, 0, 22]),
        ([0, 0, 0], 0, [0, 0, 0, 0]),
    ],
)
def test_no_group_of_few_images_leaves_and_the_sum_of_groups_is_exact(
    counts: list[int], without: int, groups: list[int]
) -> None:
    labels = torch.tensor([label for label, n in enumerate(counts) for _ in range(n)] + [-1] * without).long()
    random = torch.Generator().manual_seed(0)
    features = torch.randn(len(labels), 3, generator=random)
    order = torch.randperm(len(labels), generator=random)
    found = Moments.by_class(features[order], labels[order], 3)
    assert found.count.tolist() == groups
    assert all(not 0 < n < MIN_IMAGES for n in found.count.tolist())
    if sum(groups):
        whole = Moments.of(features)
        assert torch.allclose(found.all_groups().outer, whole.outer)
        assert torch.allclose(found.all_groups().total, whole.total)
        kept = next(at for at, n in enumerate(groups[:3]) if n) if any(groups[:3]) else None
        if kept is not None:
            assert torch.allclose(found.group(kept).outer, Moments.of(features[labels == kept]).outer)
