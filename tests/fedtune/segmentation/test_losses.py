from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn.functional import interpolate

from fedtune.segmentation.losses import boundary_loss, deep_supervision_loss, dice_ce_loss


def batch(space: tuple[int, ...] = (8, 6), num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, num_classes, *space), torch.randint(num_classes, (4, *space))


@pytest.mark.parametrize("space", [(8, 6), (4, 5, 6)])
def test_dice_ce_equals_monai_if_all_pixels_are_labelled(space: tuple[int, ...]) -> None:
    logits, masks = batch(space)
    theirs = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    assert torch.allclose(dice_ce_loss(logits, masks), theirs(logits, masks[:, None]), atol=1e-6)


def test_unlabelled_pixels_have_no_loss() -> None:
    logits, masks = batch()
    masks[:, :3] = 255
    cut = dice_ce_loss(logits[:, :, 3:], masks[:, 3:])
    assert torch.allclose(dice_ce_loss(logits, masks), cut, atol=1e-6)
    changed = logits.clone()
    changed[:, :, :3] = 50.0
    assert torch.allclose(dice_ce_loss(changed, masks), cut, atol=1e-6)
    masks[:] = 255
    logits.requires_grad_()
    loss = dice_ce_loss(logits, masks)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_right_prediction_has_no_loss() -> None:
    _, masks = batch()
    confident = 100.0 * torch.nn.functional.one_hot(masks, 3).movedim(-1, 1).float()
    assert float(dice_ce_loss(confident, masks)) < 1e-6


def test_coarser_outputs_have_half_the_weight() -> None:
    logits, masks = batch((8, 8))
    coarse = torch.randn(4, 3, 4, 4)
    small = interpolate(masks[:, None].float(), (4, 4), mode="nearest")[:, 0].long()
    expected = (dice_ce_loss(logits, masks) + 0.5 * dice_ce_loss(coarse, small)) / 1.5
    assert torch.allclose(deep_supervision_loss([logits, coarse], masks), expected)
    assert torch.allclose(deep_supervision_loss([logits], masks), dice_ce_loss(logits, masks))


def test_the_boundary_loss_by_hand() -> None:
    """One row of pixels with a structure of two: distances 1.5, 0.5, -0.5, -0.5, 0.5 from its borders."""
    masks = torch.tensor([[[0, 0, 1, 1, 0]]])
    logits = torch.zeros(1, 2, 1, 5)  # probability 1/2 everywhere
    assert float(boundary_loss(logits, masks)) == pytest.approx(0.5 * (1.5 + 0.5 - 0.5 - 0.5 + 0.5) / 5)
    inside = logits.clone()
    inside[0, 1, 0, 2:4] = 10
    assert boundary_loss(inside, masks) < boundary_loss(logits, masks)
    assert float(boundary_loss(logits, torch.zeros_like(masks))) == 0  # no structure, no border
    masks[0, 0, 0] = 255
    assert float(boundary_loss(logits, masks)) == pytest.approx(0.5 * (0.5 - 0.5 - 0.5 + 0.5) / 5)
