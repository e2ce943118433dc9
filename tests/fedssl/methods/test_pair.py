from __future__ import annotations

import pytest
import torch

from fedcore.augment.views import Views
from fedcore.errors import Refused
from fedcore.models.resnet import ResNet
from fedssl.methods.base import Method
from fedssl.methods.fcl import FCL
from fedssl.methods.moco import MoCo
from fedssl.methods.pair import pair
from fedssl.methods.simclr import SimCLR


def test_two_views_come_back_as_they_are() -> None:
    a, b = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    found = pair([a, b])
    assert found[0] is a
    assert found[1] is b


@pytest.mark.parametrize("count", [1, 3])
def test_other_counts_are_refused(count: int) -> None:
    with pytest.raises(Refused, match=f"2 views of an image, got {count}"):
        pair([torch.zeros(4, 1, 4, 4)] * count)


def test_an_image_by_itself_is_refused() -> None:
    with pytest.raises(Refused, match="at least 2 images a step, got 1"):
        pair([torch.zeros(1, 1, 4, 4)] * 2)
    assert pair([torch.zeros(1, 1, 4, 4)] * 2, least=1)


@pytest.mark.parametrize("method", [SimCLR, MoCo, FCL])
def test_a_third_view_is_refused_where_two_are_compared(method: type[Method]) -> None:
    with pytest.raises(Refused, match="2 views of an image, got 3"):
        method(ResNet(depth=10, stem=4), views=Views(count=3)).loss([torch.zeros(4, 1, 32, 32)] * 3)
