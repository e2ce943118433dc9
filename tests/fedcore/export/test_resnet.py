from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets.resnet import ResNetFeatures
from torch import nn

from fedcore.errors import InputError
from fedcore.export.command import portable
from fedcore.export.portable import Library
from fedcore.models.resnet import ResNet
from tests.fedcore.export.loading import batch, load, require_equal, resnet

DEPTHS = pytest.mark.parametrize("depth", [10, 18, 34, 50])
PLAIN = pytest.mark.parametrize(("depth", "channels"), [(10, 1), (18, 1), (18, 3), (34, 1), (50, 1)])


@pytest.fixture(autouse=True)
def _initialised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch initialises a convolution, and MONAI does so again: skipping the first saves half of the time."""
    monkeypatch.setattr("torch.nn.init.kaiming_uniform_", lambda t, **_: t)


@DEPTHS
@pytest.mark.parametrize("dims", [2, 3])
def test_monais_plain_network_gives_our_features(depth: Any, dims: int, tmp_path: Path) -> None:
    encoder, images = resnet(dims, 1, depth), batch(dims)
    model = load(encoder, "monai", tmp_path)
    assert type(model).__module__.startswith("monai.")
    require_equal(encoder, model, images)
    with torch.device("meta"):  # names and shapes alone
        features = ResNetFeatures(f"resnet{depth}", pretrained=False, spatial_dims=dims)
    features.load_state_dict(portable(encoder, "monai").tensors, strict=True, assign=True)


@pytest.mark.parametrize("shape", [(2, 3, 10, 4), (3, 1, 18, 8), (2, 1, 50, 4), (2, 1, 10, 8, "group")])
def test_monai_takes_any_stem_and_norm(shape: tuple[int, ...], tmp_path: Path) -> None:
    encoder = resnet(*shape)
    require_equal(encoder, load(encoder, "monai", tmp_path), batch(*shape[:2]))


@PLAIN
def test_torchvisions_plain_network_gives_our_features(depth: Any, channels: int, tmp_path: Path) -> None:
    encoder = resnet(2, channels, depth)
    model = load(encoder, "torchvision", tmp_path)
    assert type(model).__module__.startswith("torchvision.")
    require_equal(encoder, model, batch(2, channels), repeated=channels == 1)


@PLAIN
def test_timms_plain_network_gives_our_features(depth: Any, channels: int, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    encoder = resnet(2, channels, depth)
    model = load(encoder, "timm", tmp_path)
    assert type(model).__module__.startswith("timm.")
    require_equal(encoder, model, batch(2, channels))


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_group_norm_is_an_error_but_for_monai(to: Library) -> None:
    with pytest.raises(InputError, match="has batch norm, this encoder group norm; use `--to monai`"):
        portable(ResNet(norm="group"), to)


def test_a_shortcut_by_itself_is_exact() -> None:
    """Every second pixel, channels padded by zeros: a 1x1 convolution and a norm, to one rounding."""
    encoder, x = resnet(2, 1, 18), torch.randn(2, 64, 7, 8)
    padded = encoder.layer2[0].downsample(x)
    convolution = nn.Conv2d(64, 128, 1, stride=2, bias=False)
    shortcut = nn.Sequential(convolution, nn.BatchNorm2d(128)).eval()
    tensors = portable(encoder, "torchvision").tensors
    prefix = "layer2.0.downsample."
    shortcut.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    torch.testing.assert_close(shortcut(x), padded, rtol=3e-7, atol=0.0)


@pytest.mark.parametrize("to", ["timm", "torchvision"])
@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((3, 1, 10), "reads 2D images, this encoder reads volumes; use `--to monai`"),
        ((2, 1, 10, 32), "this encoder one of 32"),
    ],
)
def test_what_a_library_cannot_build_is_an_error(to: Any, shape: Any, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        portable(ResNet(*shape), to)


def test_torchvision_reads_grey_or_colour() -> None:
    with pytest.raises(InputError, match=r"reads 3 channels, this encoder 2; use `--to timm`"):
        portable(ResNet(2, 2, 10), "torchvision")


def test_exporting_does_not_change_the_encoder() -> None:
    encoder = resnet(2, 1, 18)
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    portable(encoder, "torchvision")
    assert all(torch.equal(t, before[name]) for name, t in encoder.state_dict().items())
