"""The base class of self-supervised methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, Optimizer

from fedcore.augment.views import Views
from fedcore.models.base import Encoder

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
"""Builds the optimizer of a visit from the parameters."""


class Method(pl.LightningModule):
    """A LightningModule made of `loss(views)`; the only base class of fedssl.

    A batch is a tensor of images, (n, c, *space) in [-1, 1]; the views are made of it on the device.
    """

    share: ClassVar[tuple[str, ...]] = ("encoder.", "head.")
    """Prefixes of the state that is sent and averaged; all other state stays at the site."""

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image.
            optimizer: Builds the optimizer of a visit.
        """
        super().__init__()
        self.encoder = encoder
        self.views = views
        self.optimizer = optimizer

    @abstractmethod
    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]: ...

    def training_step(self, images: Float[Tensor, "n c *space"], _: int) -> Tensor:
        return self.loss(self.views(images))

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])
