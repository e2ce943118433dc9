"""DenseNet: an encoder like the others, and the same network in other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fedcore.errors import InputError
from fedcore.export import portable
from fedcore.export.portable import Library
from fedcore.models.encoder_store import build_encoder, save_encoder
from fedcore.models.encoders import DenseNet

BOTH = pytest.mark.parametrize("dims", [2, 3])
SMALL = {"growth": 4, "blocks": [2, 2]}


def trained(encoder: DenseNet) -> DenseNet:
    """Its norms differ from how they were made."""
    draw = torch.Generator().manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            found = module.state_dict()
            found["weight"].uniform_(0.7, 1.2, generator=draw)
            found["running_mean"].uniform_(-0.2, 0.2, generator=draw)
            found["running_var"].uniform_(0.5, 2, generator=draw)
    return encoder.eval()


def batch(dims: int, channels: int = 1) -> Tensor:
    noise = torch.rand(2, channels, *[48 if dims == 2 else 32] * dims, generator=torch.Generator().manual_seed(2))
    noise[1] *= 0.3
    return noise * 2 - 1


def load(encoder: DenseNet, to: Library, folder: Path) -> Any:
    """The model of a user who runs the printed lines, which load strictly."""
    made, file, names = portable(encoder, to), folder / "x.safetensors", dict[str, Any]()
    safetensors.torch.save_file({name: t.contiguous() for name, t in made.tensors.items()}, file)
    exec(made.snippet(str(file)), names)
    return names["model"]


@BOTH
def test_a_feature_is_the_mean_of_the_last_map(dims: int) -> None:
    encoder, images = trained(DenseNet(dims, 2, **SMALL)), batch(dims, 2)
    with torch.inference_mode():
        last = encoder.features(images).relu()
        feature = encoder(images)
    assert feature.shape == (2, encoder.width)
    torch.testing.assert_close(feature, last.flatten(2).mean(2))


def test_by_default_it_is_densenet_121() -> None:
    """7.98 million weights in torchvision, of which 1.025 million are the classifier's and 6,272 - 2 * 3,136 the other
    two channels' of the first convolution."""
    with torch.device("meta"):
        encoder = DenseNet()
    assert encoder.width == 1024
    assert sum(p.numel() for p in encoder.parameters()) == 7_978_856 - 1_025_000 - 2 * 64 * 49


@BOTH
def test_it_is_kept_and_built_again(dims: int, tmp_path: Path) -> None:
    encoder = trained(DenseNet(dims, 1, **SMALL))
    folder = save_encoder(tmp_path / "encoder", encoder, {"size": [32] * dims}, "# Card\n")
    again = build_encoder(folder)
    assert isinstance(again, DenseNet)
    assert again.config == encoder.config
    with torch.inference_mode():
        assert torch.equal(again(batch(dims)), encoder(batch(dims)))


@pytest.mark.parametrize("wrong", [{"growth": 0}, {"blocks": []}, {"blocks": [2, 0]}])
def test_nothing_of_it_may_be_empty(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"encoder\.growth and encoder\.blocks must be at least 1"):
        DenseNet(**wrong)


@BOTH
def test_monais_network_gives_our_features(dims: int, tmp_path: Path) -> None:
    encoder = trained(DenseNet(dims, 1, **SMALL))
    model = load(encoder, "monai", tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(model(batch(dims)), encoder(batch(dims)), rtol=0, atol=0)


@pytest.mark.parametrize(("to", "channels"), [("torchvision", 1), ("torchvision", 3), ("timm", 1)])
def test_the_plain_networks_of_others_give_our_features(to: Library, channels: int, tmp_path: Path) -> None:
    pytest.importorskip(to)
    encoder, images = trained(DenseNet(2, channels)), batch(2, channels)
    model = load(encoder, to, tmp_path)
    repeated = images.expand(-1, 3, -1, -1) if to == "torchvision" else images
    with torch.inference_mode():
        ours, theirs = encoder(images), model(repeated)
    assert (ours[0] - ours[1]).abs().mean() > 1e-3
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("to", "arguments", "text"),
    [
        ("timm", {"spatial_dims": 3, **SMALL}, "timm's DenseNet reads 2D images"),
        ("torchvision", SMALL, "torchvision's DenseNet-121 has a growth of 32"),
        ("torchvision", {"channels": 2}, "torchvision's DenseNet reads 3 channels, this encoder 2"),
    ],
)
def test_what_others_cannot_build_is_refused(to: Library, arguments: dict[str, Any], text: str) -> None:
    with torch.device("meta"):
        encoder = DenseNet(**arguments)
    with pytest.raises(InputError, match=text):
        portable(encoder, to)
