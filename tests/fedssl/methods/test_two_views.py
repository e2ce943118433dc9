from __future__ import annotations

import pytest
import torch

from fedcore.augment.views import Views
from fedcore.errors import Refused
from fedcore.models.resnet import ResNet
from fedssl.methods.base import Method
from fedssl.methods.fcl import FCL
from fedssl.methods.moco import MoCo
from fedssl.methods.simclr import SimCLR
from fedssl.methods.two_views import two_views


def test_two_views_are_returned_unchanged() -> None:
    a, b = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    found = two_views([a, b])
    assert found[0] is a
    assert found[1] is b


@pytest.mark.parametrize("count", [1, 3])
def test_other_counts_are_rejected(count: int) -> None:
    with pytest.raises(Refused, match=f"2 views of an image, got {count}"):
        two_views([torch.zeros(4, 1, 4, 4)] * count)


def test_a_single_image_is_rejected() -> None:
    with pytest.raises(Refused, match="at least 2 images per step, got 1"):
        two_views([torch.zeros(1, 1, 4, 4)] * 2)
    assert two_views([torch.zeros(1, 1, 4, 4)] * 2, min_images=1)


@pytest.mark.parametrize("method", [SimCLR, MoCo, FCL])
def test_methods_that_compare_two_views_reject_three(method: type[Method]) -> None:
    with pytest.raises(Refused, match="2 views of an image, got 3"):
        method(ResNet(depth=10, stem=4), views=Views(count=3)).loss([torch.zeros(4, 1, 32, 32)] * 3)
