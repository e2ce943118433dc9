from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from monai.networks.nets.flexible_unet import FlexibleUNet
from torch import nn

from fedcore.encoders import ResNet, ViT
from fedtune.networks import DynUNet, SegResNet, SwinUNETR, UShaped

SMALL = partial(UShaped, encoder=partial(ResNet, depth=10, stem=8), widths=(16, 16, 8, 8, 8))


@pytest.mark.parametrize("space", [(64, 32), (37, 50), (20, 33, 16)])
def test_a_u_takes_images_of_any_size(space: tuple[int, ...]) -> None:
    network, images = SMALL(len(space), 2, 3, deep=2), torch.randn(2, 2, *space)
    assert network(images).shape == (2, 3, *space)
    assert [o.shape[2:] for o in network.outputs(images)] == [
        torch.Size(-(-side // 2**at) for side in space) for at in range(3)
    ]


def test_a_u_is_monais_flexible_unet() -> None:
    torch.manual_seed(0)
    ours = UShaped(2, 1, 3, encoder=partial(ResNet, depth=18))
    theirs = FlexibleUNet(1, 3, "resnet18", spatial_dims=2)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 1, 64, 96)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_while_training_the_finest_output_is_the_answer() -> None:
    torch.manual_seed(0)
    network, images = SMALL(2, 1, 3, deep=1).eval(), torch.randn(2, 1, 32, 32)
    assert torch.equal(network.outputs(images)[0], network(images))
    flat = DynUNet(2, 1, 3, width=4, levels=4, deep=2)
    assert len(flat.train().outputs(images)) == 3
    assert flat.eval()(images).shape == (2, 3, 32, 32)
    assert len(DynUNet(2, 1, 3, width=4, levels=4).outputs(images)) == 1


@pytest.mark.parametrize("make", [partial(SegResNet, width=8), partial(DynUNet, width=4), partial(SwinUNETR, width=12)])
@pytest.mark.parametrize("dims", [2, 3])
def test_sides_that_are_multiples_work(make: Callable[..., nn.Module], dims: int) -> None:
    network = make(dims, 1, 2).eval()
    space = [2 * int(network.multiple)] * dims if network.multiple < 32 else [64] * dims  # type: ignore[arg-type,operator]
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *space)).shape == (1, 2, *space)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match=r"maps of five sizes, as fedcore.encoders.ResNet; ViT has none"):
        UShaped(2, 1, 2, encoder=partial(ViT, width=24, heads=3, depth=1))
    with pytest.raises(ValueError, match=r"network.deep lie in 0..4, got .* and 5"):
        SMALL(2, 1, 2, deep=5)
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        SegResNet(2, 1, 2, width=12)
    with pytest.raises(ValueError, match="at least 3"):
        DynUNet(2, 1, 2, levels=2)
    with pytest.raises(ValueError, match="multiple of 12, got 8"):
        SwinUNETR(2, 1, 2, width=8)
