from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from fedcore.models.resnet import ResNet

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
def test_names_and_shapes_equal_those_of_monais_features(dims: int, depth: Any) -> None:
    with torch.device("meta"):  # names and shapes alone
        ours, others = ResNet(dims, 1, depth).state_dict(), theirs("features", f"resnet{depth}", dims).state_dict()
    assert {k: t.shape for k, t in ours.items()} == {k: t.shape for k, t in others.items()}


@BOTH
def test_maps_equal_those_of_monais_features_exactly(dims: int) -> None:
    ours, others = ResNet(dims).eval(), theirs("features", "resnet18", dims).eval()
    others.load_state_dict(ours.state_dict())
    batch = torch.randn(1, 1, *[32] * dims, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps, expected = ours.features(batch), others(batch)
    assert len(maps) == len(expected) == 5
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2, 1]


@BOTH
def test_gradients_pass_the_shortcuts(dims: int) -> None:
    """MONAI's shortcut of ResNet-18 has no gradient. With the other branch silenced ours is the only way."""
    encoder = ResNet(dims, stem=4)
    for block in (encoder.layer2[0], encoder.layer3[0], encoder.layer4[0]):
        torch.nn.init.zeros_(block.bn2.weight)
    encoder(torch.randn(2, 1, *[32] * dims)).sum().backward()
    assert encoder.layer1[0].conv1.weight.grad.abs().sum() > 0


@BOTH
def test_a_flexible_unet_loads_the_weights(dims: int) -> None:
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


def test_a_stem_without_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"encoder\.stem must be at least 1, .* got 0"):
        ResNet(stem=0)


@BOTH
def test_with_group_norm_a_feature_does_not_depend_on_the_batch(dims: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, *[32] * dims)
    group, batch = ResNet(dims, depth=10, stem=8, norm="group"), ResNet(dims, depth=10, stem=8)
    torch.testing.assert_close(group(images)[:2], group(images[:2]), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(batch(images)[:2], batch(images[:2]), atol=1e-2)


@BOTH
def test_batch_norm_removes_the_brightness_of_a_site_and_group_norm_does_not(dims: int) -> None:
    """The mean of each channel behind the first norm, at a bright site and at a dark one."""
    torch.manual_seed(0)
    bright = torch.rand(4, 1, *[32] * dims) * 0.4 + 0.5
    apart = {}
    for norm in ("batch", "group"):
        encoder = ResNet(dims, depth=10, stem=8, norm=norm)  # type: ignore[arg-type]
        means = [encoder.bn1(encoder.conv1(site)).transpose(0, 1).flatten(1).mean(1) for site in (bright, -bright)]
        apart[norm] = float((means[0] - means[1]).abs().max().detach())
    assert apart["batch"] < 1e-4
    assert apart["group"] > 0.5


def test_group_norm_needs_a_multiple_of_its_groups() -> None:
    with pytest.raises(ValueError, match="with group norm a multiple of 4, got 6"):
        ResNet(stem=6, norm="group")


@BOTH
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_it_is_built_again_from_its_config(dims: int, norm: Any) -> None:
    encoder = ResNet(dims, 3, 10, 4, norm)
    again = ResNet(**encoder.config)
    assert {k: t.shape for k, t in again.state_dict().items()} == {k: t.shape for k, t in encoder.state_dict().items()}
