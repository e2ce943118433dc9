"""Segmentation gallery: test images with true and predicted masks, which a site keeps for its own page.

They are the images with the best, the median and the worst Dice, which a mean hides. They are never sent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.data.mask_classes import UNLABELED
from fedcore.errors import Refused
from fedcore.models.features import evenly_spaced
from fedcore.site.figure_files import SegmentationGalleryFile
from fedcore.site.figures import Arrays, axial, keep, small_masks, thumbnails
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedtune.evaluation.segmentation_metrics import dice_by_structure


@dataclass(frozen=True)
class SegmentationGallery:
    """Size of a site's gallery.

    The file has `images` (n, c, h, w), uint8, their `true_masks` and `predicted_masks` (n, h, w) of class numbers, and
    `dice` (n,), the mean over the structures of the whole image, best first. Of a volume it has the axial slice with
    the most pixels of structures. Unlabelled pixels are background in both masks, as Dice ignores them.
    """

    num_classes: int
    """Classes in the masks, background included."""
    max_searched: int = 48
    """Test images at most whose Dice is computed."""
    max_side: int = 128
    """Pixels at most of the longer side of a kept image."""

    @property
    def what(self) -> str:
        return "segmentation gallery"

    def make(self, site: Site, local: LocalTrainer) -> None:
        """Writes the gallery of a site with test images, by the segmenter that the module holds."""
        if site.test is None or not len(site.test):
            return
        with local.measuring() as device:
            arrays = self.arrays(local, site.test, self.num_classes, device)
        keep(site, SegmentationGalleryFile.NAME, arrays)

    def arrays(self, local: LocalTrainer, test: Images, num_classes: int, device: torch.device) -> Arrays:
        """Raises Refused if none of the searched images has a structure, in its mask or in the prediction."""
        indices = evenly_spaced(len(test), self.max_searched).tolist()
        searched = [self._arrays_of(local, test, index, num_classes, device) for index in indices]
        scored = [arrays for arrays in searched if not np.isnan(arrays["dice"])]
        if not scored:
            raise Refused("no test image has a structure, in its mask or in the prediction")
        ranked = sorted(scored, key=lambda arrays: -float(arrays["dice"]))
        chosen = [ranked[rank] for rank in sorted({0, len(ranked) // 2, len(ranked) - 1})]
        stacked = {name: np.stack([arrays[name] for arrays in chosen]) for name in chosen[0]}
        return SegmentationGalleryFile(**stacked).arrays()

    def _arrays_of(
        self, local: LocalTrainer, test: Images, index: int, num_classes: int, device: torch.device
    ) -> Arrays:
        image, mask = test.batch([index]), test.mask_batch([index])[0]
        predicted = local.module(image.to(device)).argmax(1)[0].cpu()
        dice = dice_by_structure(predicted, mask, num_classes).nanmean()
        masks = torch.stack([mask, predicted]) * (mask != UNLABELED)
        picture, masks = _fullest_slice(image, masks)
        true_mask, predicted_mask = small_masks(masks, self.max_side)
        return {
            "images": thumbnails(picture, self.max_side)[0], "true_masks": true_mask,
            "predicted_masks": predicted_mask, "dice": dice.float().numpy(),
        }  # fmt: skip


def _fullest_slice(
    image: Float[Tensor, "1 c *space"], masks: Int64[Tensor, "2 *space"]
) -> tuple[Float[Tensor, "1 c h w"], Int64[Tensor, "2 h w"]]:
    """The slice where the true mask, or if that is empty the predicted mask, has most pixels of structures.

    A 2D image is returned as it is.
    """
    if image.dim() == 4:
        return image, masks
    true_pixels, predicted_pixels = (masks > 0).flatten(1, 2).sum(1)
    index = int((true_pixels if true_pixels.any() else predicted_pixels).argmax())
    return axial(image, index), axial(masks, index)
