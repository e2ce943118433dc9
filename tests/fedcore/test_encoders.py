from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from fedcore.encoders import ResNet

BOTH = pytest.mark.parametrize("dims", [2, 3])


def theirs(kind: str, name: str, dims: int) -> Any:
    from monai.networks import nets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own deprecations
        if kind == "features":
            return nets.ResNetFeatures(name, pretrained=False, spatial_dims=dims, in_channels=1)
        return nets.FlexibleUNet(1, 2, name, pretrained=False, spatial_dims=dims)


@BOTH
@pytest.mark.parametrize("depth", [18, 50])
def test_tensors_are_those_of_monais_features(dims: int, depth: Any) -> None:
    with torch.device("meta"):  # names and shapes alone
        ours, others = ResNet(dims, 1, depth).state_dict(), theirs("features", f"resnet{depth}", dims).state_dict()
    assert {k: t.shape for k, t in ours.items()} == {k: t.shape for k, t in others.items()}


@BOTH
def test_maps_are_those_of_monais_features_to_the_bit(dims: int) -> None:
    ours, others = ResNet(dims).eval(), theirs("features", "resnet18", dims).eval()
    others.load_state_dict(ours.state_dict())
    batch = torch.randn(1, 1, *[32] * dims, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps, expected = ours.features(batch), others(batch)
    assert len(maps) == len(expected) == 5
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2, 1]


@BOTH
def test_blocks_learn_through_the_shortcuts_too(dims: int) -> None:
    """MONAI's shortcut of ResNet-18 has no gradient. With the other branch silenced ours is the only way."""
    encoder = ResNet(dims, stem=4)
    for block in (encoder.layer2[0], encoder.layer3[0], encoder.layer4[0]):
        torch.nn.init.zeros_(block.bn2.weight)
    encoder(torch.randn(2, 1, *[32] * dims)).sum().backward()
    assert encoder.layer1[0].conv1.weight.grad.abs().sum() > 0


@BOTH
def test_weights_fit_into_a_flexible_unet(dims: int) -> None:
    encoder, unet = ResNet(dims), theirs("unet", "resnet18", dims)
    unet.encoder.load_state_dict(encoder.state_dict(), strict=True)
    assert torch.equal(unet.encoder.layer4[1].conv2.weight, encoder.layer4[1].conv2.weight)


@pytest.mark.parametrize(("depth", "width"), [(10, 64), (18, 64), (34, 64), (50, 256)])
def test_a_feature_is_the_mean_of_the_last_map(depth: Any, width: int) -> None:
    encoder = ResNet(2, 3, depth, stem=8).eval()
    batch = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        feature, last = encoder(batch), encoder.features(batch)[-1]
    assert feature.shape == (2, width) == (2, encoder.width)
    torch.testing.assert_close(feature, last.mean((2, 3)))


def test_a_stem_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder\.stem must be at least 1, got 0"):
        ResNet(stem=0)


@BOTH
def test_it_is_built_again_from_its_config(dims: int) -> None:
    encoder = ResNet(dims, 3, 10, 4)
    again = ResNet(**encoder.config)
    assert {k: t.shape for k, t in again.state_dict().items()} == {k: t.shape for k, t in encoder.state_dict().items()}
