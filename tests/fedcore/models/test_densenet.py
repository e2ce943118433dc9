from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.models.densenet import DenseNet
from fedcore.models.encoder_store import build_encoder, save_encoder
from tests.fedcore.export.loading import batch, with_random_norms

BOTH = pytest.mark.parametrize("dims", [2, 3])
SMALL: dict[str, Any] = {"growth": 4, "blocks": [2, 2]}


@BOTH
def test_a_feature_is_the_mean_of_the_last_map(dims: int) -> None:
    encoder, images = with_random_norms(DenseNet(dims, 2, **SMALL)), batch(dims, 2)
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
def test_it_is_saved_and_built_again(dims: int, tmp_path: Path) -> None:
    encoder = with_random_norms(DenseNet(dims, 1, **SMALL))
    folder = save_encoder(tmp_path / "encoder", encoder, {"size": [32] * dims}, "# Card\n")
    again = build_encoder(folder)
    assert isinstance(again, DenseNet)
    assert again.config == encoder.config
    with torch.inference_mode():
        assert torch.equal(again(batch(dims)), encoder(batch(dims)))


@pytest.mark.parametrize("wrong", [{"growth": 0}, {"blocks": []}, {"blocks": [2, 0]}])
def test_growth_and_blocks_must_be_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"encoder\.growth and encoder\.blocks must be at least 1"):
        DenseNet(**wrong)
