"""What a site keeps of a segmenter for its own page: test images with their true and their predicted masks.

They are those of the best, the median and the worst Dice, which a mean hides. Nothing of it is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.data.preprocess.decode import UNLABELED
from fedcore.errors import Refused
from fedcore.site.figures import Arrays, axial, evenly, kept_by_each, small_masks, thumbnails
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import personal_weights
from fedcore.transport.in_process import InProcess
from fedtune.evaluation.segmentation_metrics import dice_by_structure

FILE = "outlines.npz"


@dataclass(frozen=True)
class Outlines:
    """How much a site keeps.

    `arrays` says what: `images` (n, c, h, w), uint8, with their `truth` and `guess` (n, h, w), class numbers, and
    `dice` (n,), the mean over the structures of the whole image, best first. Of a volume the axial slice
    that has most of a structure. Unlabelled pixels are background on both sides, as Dice leaves them out.
    """

    searched: int = 48
    """Test images at most that are looked at."""
    side: int = 128
    """Pixels of the longer side of a kept image, at most."""

    def keep(self, sites: InProcess, structures: int) -> list[str]:
        """Writes the outlines of every site that has test images, and returns notes on those that could not.

        Of the segmenter that `sites.local` holds, or a site's own; `structures` counts background.
        """
        weights = sites.local.shared()

        def arrays(site: Site) -> Arrays:
            assert site.test is not None, "only sites with test images are asked"
            with sites.local.at(site), sites.local.measuring() as device:
                sites.local.load(weights | personal_weights(site.memory))
                return self.arrays(sites.local, site.test, structures, device)

        return kept_by_each(replace(sites, train=sites.test), "outlines", FILE, arrays)

    def arrays(self, local: LocalTrainer, test: Images, structures: int, device: torch.device) -> Arrays:
        """Raises Refused if none of the images looked at shows a structure, in truth or as predicted."""
        looked = [self._look(local, test, at, structures, device) for at in evenly(len(test), self.searched).tolist()]
        known = [look for look in looked if not np.isnan(look["dice"])]
        if not known:
            raise Refused("none of its test images shows a structure, in truth or as predicted")
        ranked = sorted(known, key=lambda look: -float(look["dice"]))
        shown = [ranked[place] for place in sorted({0, len(ranked) // 2, len(ranked) - 1})]
        return {name: np.stack([look[name] for look in shown]) for name in shown[0]}

    def _look(self, local: LocalTrainer, test: Images, at: int, structures: int, device: torch.device) -> Arrays:
        image, mask = test.batch([at]), test.mask_batch([at])[0]
        guess = local.module(image.to(device)).argmax(1)[0].cpu()
        dice = dice_by_structure(guess, mask, structures).nanmean()
        sides = torch.stack([mask, guess]) * (mask != UNLABELED)
        picture, (truth, guessed) = _fullest_slice(image, sides)
        small = small_masks(torch.stack([truth, guessed]), self.side)
        return {
            "images": thumbnails(picture, self.side)[0], "truth": small[0], "guess": small[1],
            "dice": dice.float().numpy(),
        }  # fmt: skip


def _fullest_slice(
    image: Float[Tensor, "1 c *space"], sides: Int64[Tensor, "2 *space"]
) -> tuple[Float[Tensor, "1 c h w"], Int64[Tensor, "2 h w"]]:
    """Where the truth has most, or where it is empty the guess; an image of two dimensions as it is."""
    if image.dim() == 4:
        return image, sides
    truth, guess = (sides > 0).flatten(1, 2).sum(1)
    most = int((truth if truth.any() else guess).argmax())
    return axial(image, most), axial(sides, most)
