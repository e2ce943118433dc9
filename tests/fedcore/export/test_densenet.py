from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedcore.export.command import portable
from fedcore.export.portable import Library
from fedcore.models.densenet import DenseNet
from tests.fedcore.export.loading import batch, load, with_random_norms

BOTH = pytest.mark.parametrize("dims", [2, 3])
SMALL: dict[str, Any] = {"growth": 4, "blocks": [2, 2]}


@BOTH
def test_monais_network_gives_our_features(dims: int, tmp_path: Path) -> None:
    encoder = with_random_norms(DenseNet(dims, 1, **SMALL))
    model = load(encoder, "monai", tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(model(batch(dims)), encoder(batch(dims)), rtol=0, atol=0)


@pytest.mark.parametrize(("to", "channels"), [("torchvision", 1), ("torchvision", 3), ("timm", 1)])
def test_the_networks_of_timm_and_torchvision_give_our_features(to: Library, channels: int, tmp_path: Path) -> None:
    pytest.importorskip(to)
    encoder, images = with_random_norms(DenseNet(2, channels)), batch(2, channels)
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
def test_what_other_libraries_cannot_build_is_an_error(to: Library, arguments: dict[str, Any], text: str) -> None:
    with torch.device("meta"):
        encoder = DenseNet(**arguments)
    with pytest.raises(InputError, match=text):
        portable(encoder, to)
