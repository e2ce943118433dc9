from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet
from monai.networks.nets.flexible_unet import FlexibleUNet
from torch import nn

from fedcore.models.resnet import ResNet
from fedcore.models.vit import ViT
from fedtune.segmentation.networks import DynUNet, EncoderUNet, SegResNet, SwinUNETR

SMALL = partial(EncoderUNet, encoder=partial(ResNet, depth=10, stem=8), decoder_channels=(16, 16, 8, 8, 8))


@pytest.mark.parametrize("space", [(64, 32), (37, 50), (20, 33, 16)])
def test_encoder_unet_takes_images_of_any_size(space: tuple[int, ...]) -> None:
    network, images = SMALL(len(space), 2, 3, deep_supervision=2), torch.randn(2, 2, *space)
    assert network(images).shape == (2, 3, *space)
    assert [o.shape[2:] for o in network.outputs(images)] == [
        torch.Size(-(-side // 2**at) for side in space) for at in range(3)
    ]


def test_encoder_unet_equals_monais_flexible_unet() -> None:
    torch.manual_seed(0)
    ours = EncoderUNet(2, 1, 3, encoder=partial(ResNet, depth=18))
    theirs = FlexibleUNet(1, 3, "resnet18", spatial_dims=2)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 1, 64, 96)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_the_decoder_has_the_norm_of_the_encoder() -> None:
    group = partial(EncoderUNet, encoder=partial(ResNet, depth=10, stem=8, norm="group"))
    norms = [m for m in group(2, 1, 3, decoder_channels=(16, 16, 8, 8, 4)).modules() if "Norm" in type(m).__name__]
    assert {type(norm) for norm in norms} == {nn.GroupNorm}
    with pytest.raises(
        ValueError, match=r"decoder_channels must be multiples of 4 with group norm, got \(16, 16, 8, 8, 6\)"
    ):
        group(2, 1, 3, decoder_channels=(16, 16, 8, 8, 6))


def test_the_finest_output_equals_forward() -> None:
    torch.manual_seed(0)
    network, images = SMALL(2, 1, 3, deep_supervision=1).eval(), torch.randn(2, 1, 32, 32)
    assert torch.equal(network.outputs(images)[0], network(images))


@pytest.mark.parametrize("dims", [2, 3])
def test_dynunet_equals_monais_without_duplicate_names(dims: int) -> None:
    torch.manual_seed(0)
    ours = DynUNet(dims, 1, 3, width=4, levels=4).eval()
    strides = [1, 2, 2, 2]
    theirs = MonaiDynUNet(dims, 1, 3, [3] * 4, strides, strides[1:], filters=[4, 8, 16, 32]).eval()
    found = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(name.startswith("skip_layers.") for name in found.missing_keys)
    images = torch.randn(2, 1, *[16] * dims)
    assert torch.equal(ours(images), theirs(images))
    assert len({t.data_ptr() for t in ours.state_dict().values()}) == len(ours.state_dict())


@pytest.mark.parametrize("dims", [2, 3])
def test_dynunet_has_outputs_of_coarser_levels(dims: int) -> None:
    network, images = DynUNet(dims, 1, 3, width=4, levels=4, deep_supervision=2).eval(), torch.randn(2, 1, *[16] * dims)
    outputs = network.outputs(images)
    assert [o.shape for o in outputs] == [(2, 3, *[16 // 2**at] * dims) for at in range(3)]
    assert torch.equal(outputs[0], network(images))


@pytest.mark.parametrize("make", [partial(SegResNet, width=8), partial(DynUNet, width=4), partial(SwinUNETR, width=12)])
@pytest.mark.parametrize("dims", [2, 3])
def test_sides_that_are_multiples_of_the_divisor_work(make: Callable[..., nn.Module], dims: int) -> None:
    network = make(dims, 1, 2).eval()
    space = [2 * int(network.size_divisor)] * dims if network.size_divisor < 32 else [64] * dims  # type: ignore[arg-type,operator]
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *space)).shape == (1, 2, *space)


def test_invalid_networks_are_errors() -> None:
    with pytest.raises(ValueError, match=r"feature maps of five sizes, as fedcore.models.resnet.ResNet; ViT has not"):
        EncoderUNet(2, 1, 2, encoder=partial(ViT, width=24, heads=3, depth=1))
    with pytest.raises(ValueError, match=r"network.deep_supervision lie in 0..4, got .* and 5"):
        SMALL(2, 1, 2, deep_supervision=5)
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        SegResNet(2, 1, 2, width=12)
    with pytest.raises(ValueError, match="at least 3"):
        DynUNet(2, 1, 2, levels=2)
    with pytest.raises(ValueError, match="multiple of 12, got 8"):
        SwinUNETR(2, 1, 2, width=8)
