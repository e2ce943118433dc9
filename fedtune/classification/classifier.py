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
DEFAULT_AUGMENTATION = Views(count=1, crop=(0.7, 1.0))


class Classifier(pl.LightningModule):
    """One linear layer on the features of an encoder; all weights are shared.

    A frozen encoder keeps all its weights, batch norm statistics included, and is not sent.
    """

    scratch = ("class_weights",)
    class_weights: Tensor

    def __init__(
        self, encoder: Encoder, num_classes: int, freeze_encoder: bool = False,
        augment: Views | None = DEFAULT_AUGMENTATION,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4), loss: Loss | None = None,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            num_classes: Number of classes, or of findings.
            freeze_encoder: Train only the linear layer (linear probe).
            augment: Random transforms of a training image, one view; null: none. By default half of the images are
                mirrored (`flip`), unlike those of a segmenter; set `flip` to 0 if a class depends on the body side.
            optimizer: Builds the optimizer of a visit.
            loss: The loss; null: fedtune.classification.losses.CrossEntropy.
        """
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, num_classes)
        self.freeze_encoder, self.augment, self.optimizer = freeze_encoder, augment, optimizer
        self.loss = loss or CrossEntropy()
        # Each visit computes them from the images of its site, so they are not part of the state.
        self.register_buffer("class_weights", torch.ones(()), persistent=False)
        encoder.requires_grad_(not freeze_encoder)

    @property
    def targets(self) -> Target:
        return self.loss.targets()

    @property
    def share(self) -> tuple[str, ...]:
        return ("head.",) if self.freeze_encoder else ("encoder.", "head.")

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k"]:
        """Logits."""
        return self.head(self.encoder(images))

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, truth = batch  # a list: torch's loader makes one of the pair
        if self.augment is not None:
            images = self.augment(images)[0]
        return self.loss.mean_loss(self(images), truth, self.class_weights)

    def on_train_start(self) -> None:
        loader = self.trainer.train_dataloader
        assert loader is not None, "a visit has training batches"
        images: Images = loader.dataset.images
        self.class_weights = self.loss.class_weights(images, self.head.out_features).to(self.device)

    def on_train_epoch_start(self) -> None:
        self.encoder.train(not self.freeze_encoder)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])
