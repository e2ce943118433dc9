from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from fedcore.augment.views import Views
from fedcore.errors import InputError
from fedcore.models.resnet import ResNet
from fedtune.segmentation.losses import boundary_loss, deep_supervision_loss
from fedtune.segmentation.networks import EncoderUNet, SegResNet
from fedtune.segmentation.segmenter import Segmenter

SMALL = partial(EncoderUNet, encoder=partial(ResNet, depth=10, stem=8), decoder_channels=(16, 16, 8, 8, 8))


def batch(space: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 1, *space).clamp(-1, 1), torch.randint(2, (2, *space))


def test_the_loss_has_all_outputs_and_the_boundary_loss() -> None:
    images, masks = batch((32, 32))
    network = SMALL(2, 1, 2, deep_supervision=1).eval()
    module = Segmenter(network, (32, 32), boundary_weight=0.1, augment=None).eval()
    outputs = network.outputs(images)
    expected = deep_supervision_loss(outputs, masks) + 0.1 * boundary_loss(outputs[0], masks)
    assert torch.allclose(module.training_step((images, masks), 0), expected)


def test_sliding_windows_equal_a_network_of_single_pixels() -> None:
    """Such a network cannot see where a window ends, so windows must change nothing."""
    torch.manual_seed(0)
    network, (images, _) = nn.Conv2d(1, 3, 1), batch((20, 17))
    module = Segmenter(network, (20, 17), patch_size=8)
    assert torch.allclose(module(images), network(images), atol=1e-5)


def test_patches_are_cut_before_they_are_transformed() -> None:
    images, masks = batch((16, 24))
    module = Segmenter(SMALL(2, 1, 2), (16, 24), patch_size=(8, 16))
    views, cut = module._augmented(images, masks)
    assert views.shape == (2, 1, 8, 16)
    assert cut.shape == (2, 8, 16)
    assert set(cut.unique().tolist()) <= {0, 1}


def test_invalid_sizes_are_errors_before_training() -> None:
    with pytest.raises(InputError, match="patch_size must fit into the images, got 32 x 32 for images of 16 x 24"):
        Segmenter(SMALL(2, 1, 2), (16, 24), patch_size=32)
    with pytest.raises(InputError, match="flip must be one number or 2, one per axis, got 3"):
        Segmenter(SMALL(2, 1, 2), (16, 24), augment=Views(count=1, flip=(0.5, 0.0, 0.0)))
    with pytest.raises(InputError, match=r"multiples of 8 for this network, got data.size 20 x 24; set 16 x 24"):
        Segmenter(SegResNet(2, 1, 2, width=8), (20, 24))
    with pytest.raises(InputError, match=r"got segmenter.patch_size 12 x 12"):
        Segmenter(SegResNet(2, 1, 2, width=8), (20, 24), patch_size=12)
    with pytest.raises(ValueError, match=r"overlap in \[0, 1\)"):
        Segmenter(SMALL(2, 1, 2), (16, 24), overlap=1.0)
