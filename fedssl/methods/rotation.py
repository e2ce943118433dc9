"""Rotation prediction: classify by which of four angles an image was rotated (Gidaris et al. 2018, arXiv 1803.07728).

A baseline of the federated papers. It suits images with one upright pose; features that only need to distinguish
poses carry less information about a disease.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.errors import Refused
from fedcore.models.base import Encoder
from fedssl.methods.base import Method, OptimizerFactory

NUM_ROTATIONS = 4


class Rotation(Method):
    """All four rotations of every view in one batch, as in the paper; so a step costs as much as four views.

    Volumes are rotated in the plane of their last two axes as well: our reading, as the paper has 2D images alone.
    """

    def __init__(
        self, encoder: Encoder, views: Views = Views(count=1, rotate=0.0, flip=0.0),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; count 1 is enough, rotate and flip must be 0.
            optimizer: Builds the optimizer of a visit.
        """
        super().__init__(encoder, views, optimizer)
        if views.rotate or views.flip:
            # A volume flipped along two axes is a volume rotated by 180 degrees.
            raise ValueError(
                f"views.rotate and views.flip must be 0, got {views.rotate} and {views.flip}: "
                "the method predicts the rotation"
            )
        self.head = nn.Linear(encoder.width, NUM_ROTATIONS)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        images, rotation = all_rotations(torch.cat(views))
        return cross_entropy(self.head(self.encoder(images)).float(), rotation)


def all_rotations(images: Float[Tensor, "n c *space"]) -> tuple[Float[Tensor, "m c *space"], Tensor]:
    """Every image rotated by 0, 90, 180 and 270 degrees in its last two axes, and the rotation's class: 4n of each.

    Raises:
        Refused: The last two axes differ in length.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise Refused(
            f"rotation prediction needs last two axes of equal length, got {height} and {width}; "
            "give data.size two equal last numbers"
        )
    rotated = [torch.rot90(images, rotation, dims=(-2, -1)) for rotation in range(NUM_ROTATIONS)]
    return torch.cat(rotated), torch.arange(NUM_ROTATIONS, device=images.device).repeat_interleave(len(images))
