from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedcore.models.vit import ViT
from fedssl.methods.mae import MAE
from fedssl.methods.masking import gather_tokens, masked_mse, patchify, random_masking, scatter_tokens

BOTH = pytest.mark.parametrize("space", [(8, 12), (8, 4, 8)], ids=["2d", "3d"])
CPU = torch.device("cpu")


def random_images(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1


def masked_patches(visible: Tensor, patches: int) -> list[list[int]]:
    return [[p for p in range(patches) if p not in row] for row in visible.tolist()]


def test_masked_mse_by_hand() -> None:
    prediction, target = torch.zeros(1, 3, 2), torch.tensor([[[9.0, 9.0], [1.0, 3.0], [2.0, 0.0]]])
    assert masked_mse(prediction, target, torch.tensor([[0]])).item() == pytest.approx((1 + 9 + 4 + 0) / 4)
    assert masked_mse(prediction, target, torch.tensor([[2, 0]])).item() == pytest.approx((1 + 9) / 2)


@BOTH
def test_only_masked_patches_affect_the_loss(space: tuple[int, ...]) -> None:
    target = patchify(random_images(2, 1, *space), 4)
    visible, prediction = random_masking(2, target.shape[1], 0.5, CPU), torch.randn_like(target)
    before = masked_mse(prediction, target, visible)
    for i in range(2):
        changed = target.clone()
        changed[i, visible[i]] += torch.randn_like(changed[i, visible[i]])
        assert masked_mse(prediction, changed, visible).equal(before)
        changed = target.clone()
        changed[i, masked_patches(visible, target.shape[1])[i][0], 0] += 1
        assert not masked_mse(prediction, changed, visible).equal(before)


def test_scattered_tokens_return_to_their_places() -> None:
    tokens, fill = torch.randn(3, 7, 5), torch.full((3, 7, 5), 9.0)
    visible = random_masking(3, 7, 0.5, CPU)
    restored = scatter_tokens(gather_tokens(tokens, visible), visible, fill)
    for i, masked in enumerate(masked_patches(visible, 7)):
        assert torch.equal(restored[i, visible[i]], tokens[i, visible[i]])
        assert (restored[i, masked] == 9).all()
    all_indices = torch.stack([torch.randperm(7) for _ in range(3)])
    assert torch.equal(scatter_tokens(gather_tokens(tokens, all_indices), all_indices, fill), tokens)


@pytest.mark.parametrize(
    ("patches", "ratio", "count"), [(64, 0.6, 25), (64, 0.75, 16), (2, 0.01, 1), (2, 0.99, 1), (9, 0.999, 1)]
)
def test_every_image_has_its_own_random_mask(patches: int, ratio: float, count: int) -> None:
    visible = random_masking(500, patches, ratio, CPU)
    assert visible.shape == (500, count)
    assert all(len(set(row)) == count for row in visible.tolist())
    frequencies = visible.flatten().bincount(minlength=patches) / 500
    torch.testing.assert_close(frequencies, torch.full((patches,), count / patches), rtol=0, atol=0.12)
    torch.manual_seed(5)
    seeded = random_masking(500, patches, ratio, CPU)
    torch.manual_seed(5)
    assert torch.equal(random_masking(500, patches, ratio, CPU), seeded)
    assert not torch.equal(visible, seeded)


@BOTH
def test_patches_are_those_that_the_encoder_embeds(space: tuple[int, ...]) -> None:
    encoder = MAE(ViT(len(space), 2, patch=4, width=24, depth=1, heads=2), decoder_width=12, decoder_heads=2).encoder
    images = random_images(2, 2, *space)
    pixels = patchify(images, encoder.patch)
    embedded = pixels @ encoder.patches.weight.flatten(1).T + encoder.patches.bias
    torch.testing.assert_close(embedded, encoder.patches(images).flatten(2).mT, rtol=1e-4, atol=1e-5)
