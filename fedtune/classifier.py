"""A classifier on an encoder, trained by several sites together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer

from fedcore.data.images import Beside
from fedcore.encoders import Encoder
from fedcore.views import Views

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
MILD = Views(count=1, crop=(0.7, 1.0))


class Classifier(pl.LightningModule):
    """Cross entropy on the encoder's features through one linear layer; everything travels.

    A frozen encoder is used as it is, batch norm statistics included, and does not travel.
    """

    beside: ClassVar[Beside] = "labels"

    def __init__(
        self, encoder: Encoder, classes: int, frozen: bool = False, augment: Views | None = MILD,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4),
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            classes: Number of classes.
            frozen: Train the linear layer alone.
            augment: Random transforms of a training image, one view; null for none.
            optimizer: Builds the optimizer of a visit.
        """
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, classes)
        self.frozen, self.augment, self.optimizer = frozen, augment, optimizer
        encoder.requires_grad_(not frozen)

    @property
    def share(self) -> tuple[str, ...]:
        return ("head.",) if self.frozen else ("encoder.", "head.")

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k"]:
        """Logits."""
        return self.head(self.encoder(images))

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, labels = batch  # (n, c, *space) and (n,); torch's loader makes a list of the pair
        if self.augment is not None:
            images = self.augment(images)[0]
        return cross_entropy(self(images), labels)

    def on_train_epoch_start(self) -> None:
        self.encoder.train(not self.frozen)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])
