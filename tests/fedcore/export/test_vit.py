from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedcore.export.command import portable
from fedcore.models.vit import ViT
from tests.fedcore.export.loading import batch, load, require_equal


def test_timms_plain_vit_gives_our_features(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    encoder = ViT(2, 3, patch=8, width=16, depth=2, heads=4, mlp_ratio=2.0).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases too
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    for size in ((48, 48), (24, 40)):
        images = batch(2, 3)[..., : size[0], : size[1]]
        require_equal(encoder, load(encoder, "timm", tmp_path, size), images)


@pytest.mark.parametrize(
    ("dims", "to", "size", "text"),
    [
        (3, "timm", (32, 32, 32), "no library has this ViT for volumes"),
        (2, "monai", (32, 32), "no class token without a classifier; use `--to timm`"),
        (2, "torchvision", (32, 32), "not the mean of the patches; use `--to timm`"),
        (2, "timm", (), "encoder.json names none"),
    ],
)
def test_an_error_names_the_library_that_supports_a_vit(dims: int, to: Any, size: tuple[int, ...], text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        portable(ViT(dims, 1, 16, 24, 1, 3), to, size)
