"""Rotation prediction: which of four turns was an image given (Gidaris et al. 2018, arXiv 1803.07728).

A baseline of the federated papers. It suits images with one upright pose, and features that only have to
tell poses apart tell less of a disease.
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

TURNS = 4


class Rotation(Method):
    """All four turns of every view in one batch, as in the paper; so a step costs that of four views.

    Volumes are turned in the plane of their last two axes too: our reading, as the paper has pictures alone.
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
            # A volume mirrored along two axes is one that was turned by half.
            raise ValueError(
                f"views.rotate and views.flip must be 0, got {views.rotate} and {views.flip}: "
                "the turn is what has to be guessed"
            )
        self.head = nn.Linear(encoder.width, TURNS)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        images, turn = all_turns(torch.cat(views))
        return cross_entropy(self.head(self.encoder(images)).float(), turn)


def all_turns(images: Float[Tensor, "n c *space"]) -> tuple[Float[Tensor, "m c *space"], Tensor]:
    """Every image turned by 0, 90, 180 and 270 degrees in its last two axes, and the number of its turn: 4n each.

    Raises:
        Refused: the last two axes differ in length.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise Refused(
            f"rotation prediction needs last axes of one length, got {height} and {width}; "
            "give data.size two equal last numbers"
        )
    turned = [torch.rot90(images, turn, dims=(-2, -1)) for turn in range(TURNS)]
    return torch.cat(turned), torch.arange(TURNS, device=images.device).repeat_interleave(len(images))
