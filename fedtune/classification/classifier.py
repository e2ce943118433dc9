"""A classifier on an encoder, trained by several sites together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from fedcore.augment.views import Views
from fedcore.data.dataset import Images, Target
from fedcore.models.base import Encoder
from fedtune.classification.losses import CrossEntropy, Loss

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
MILD = Views(count=1, crop=(0.7, 1.0))


class Classifier(pl.LightningModule):
    """One linear layer on the encoder's features; everything travels.

    A frozen encoder is used as it is, batch norm statistics included, and does not travel.
    """

    weights: Tensor

    def __init__(
        self, encoder: Encoder, classes: int, frozen: bool = False, augment: Views | None = MILD,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4), loss: Loss | None = None,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            classes: Number of classes, or of findings.
            frozen: Train the linear layer alone.
            augment: Random transforms of a training image, one view; null for none. By default half of the images
                are mirrored (`flip`), which a segmenter's are not; set it to 0 where a class is of one body side.
            optimizer: Builds the optimizer of a visit.
            loss: What it learns by; null: fedtune.classification.losses.CrossEntropy.
        """
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, classes)
        self.frozen, self.augment, self.optimizer, self.loss = frozen, augment, optimizer, loss or CrossEntropy()
        # Of the site that is visited; made anew at each visit, so no part of the state.
        self.register_buffer("weights", torch.ones(()), persistent=False)
        encoder.requires_grad_(not frozen)

    @property
    def targets(self) -> Target:
        return self.loss.targets()

    @property
    def share(self) -> tuple[str, ...]:
        return ("head.",) if self.frozen else ("encoder.", "head.")

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k"]:
        """Logits."""
        return self.head(self.encoder(images))

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, truth = batch  # torch's loader makes a list of the pair
        if self.augment is not None:
            images = self.augment(images)[0]
        return self.loss.mean(self(images), truth, self.weights)

    def on_train_start(self) -> None:
        batches = self.trainer.train_dataloader
        assert batches is not None, "training has batches"
        images: Images = batches.dataset.images
        self.weights = self.loss.weights(images, self.head.out_features).to(self.device)

    def on_train_epoch_start(self) -> None:
        self.encoder.train(not self.frozen)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])
