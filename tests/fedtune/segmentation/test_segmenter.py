from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from fedcore.augment.views import Views
from fedcore.errors import InputError
from fedcore.models.resnet import ResNet
from fedtune.segmentation.losses import boundary, deep_dice_ce
from fedtune.segmentation.networks import SegResNet, UShaped
from fedtune.segmentation.segmenter import Segmenter

SMALL = partial(UShaped, encoder=partial(ResNet, depth=10, stem=8), widths=(16, 16, 8, 8, 8))


def batch(space: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 1, *space).clamp(-1, 1), torch.randint(2, (2, *space))


def test_the_loss_is_of_all_outputs_and_the_border() -> None:
    images, masks = batch((32, 32))
    network = SMALL(2, 1, 2, deep=1).eval()
    module = Segmenter(network, (32, 32), boundary=0.1, augment=None).eval()
    outputs = network.outputs(images)
    expected = deep_dice_ce(outputs, masks) + 0.1 * boundary(outputs[0], masks)
    assert torch.allclose(module.training_step((images, masks), 0), expected)


def test_windows_that_slide_cover_the_image_and_agree_with_a_network_of_single_pixels() -> None:
    """Such a network cannot see where a window ends, so windows must change nothing."""
    torch.manual_seed(0)
    network, (images, _) = nn.Conv2d(1, 3, 1), batch((20, 17))
    module = Segmenter(network, (20, 17), patch=8)
    assert torch.allclose(module(images), network(images), atol=1e-5)


def test_patches_are_cut_before_they_are_transformed() -> None:
    images, masks = batch((16, 24))
    module = Segmenter(SMALL(2, 1, 2), (16, 24), patch=(8, 16))
    views, cut = module._views(images, masks)
    assert views.shape == (2, 1, 8, 16)
    assert cut.shape == (2, 8, 16)
    assert set(cut.unique().tolist()) <= {0, 1}


def test_sizes_that_do_not_work_are_told_before_training() -> None:
    with pytest.raises(InputError, match="patch must fit into the images, got 32 x 32 for images of 16 x 24"):
        Segmenter(SMALL(2, 1, 2), (16, 24), patch=32)
    with pytest.raises(InputError, match="flip must be one number or 2, one per axis, got 3"):
        Segmenter(SMALL(2, 1, 2), (16, 24), augment=Views(count=1, flip=(0.5, 0.0, 0.0)))
    with pytest.raises(InputError, match=r"multiples of 8 for this network, got data.size 20 x 24; 16 x 24 would do"):
        Segmenter(SegResNet(2, 1, 2, width=8), (20, 24))
    with pytest.raises(InputError, match=r"got segmenter.patch 12 x 12"):
        Segmenter(SegResNet(2, 1, 2, width=8), (20, 24), patch=12)
    with pytest.raises(ValueError, match=r"overlap in \[0, 1\)"):
        Segmenter(SMALL(2, 1, 2), (16, 24), overlap=1.0)
