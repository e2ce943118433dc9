"""A segmenter, trained by several sites together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import pytorch_lightning as pl
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from fedcore.augment.views import Views
from fedcore.data.dataset import Target
from fedcore.data.preprocess.geometry import full_size
from fedcore.errors import InputError
from fedtune.segmentation.losses import boundary_loss, deep_supervision_loss
from fedtune.segmentation.patches import random_patches

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
DEFAULT_AUGMENTATION = Views(count=1, crop=(0.7, 1.0), flip=0.0)
"""Without mirroring, because structures may differ by body side: left and right kidney, head and tail."""


class Segmenter(pl.LightningModule):
    """Dice and cross entropy on masks of class numbers; all weights are shared."""

    targets: ClassVar[Target] = "masks"
    share: ClassVar[tuple[str, ...]] = ("network.",)

    def __init__(
        self, network: nn.Module, image_size: Sequence[int], patch_size: int | Sequence[int] | None = None,
        foreground_probability: float = 0.5, overlap: float = 0.5, boundary_weight: float = 0.0,
        augment: Views | None = DEFAULT_AUGMENTATION,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4),
    ):  # fmt: skip
        """
        Args:
            network: A network as in `fedtune.segmentation.networks`.
            image_size: Pixels of an image along each axis; a run takes it from its data.
            patch_size: Pixels of the patches to train on, and of the sliding window of inference; null: whole images.
            foreground_probability: Probability that a patch is centred on a structure, in [0, 1].
            overlap: Overlap of sliding windows, in [0, 1); more is smoother and slower. Predictions are weighted by a
                Gaussian, less at the window's border.
            boundary_weight: Weight of the boundary loss, which is added to Dice and cross entropy, >= 0; it takes time
                on the CPU.
            augment: Random transforms of a training image and its mask, one view; null: none.
            optimizer: Builds the optimizer of a visit.

        Raises:
            InputError: Patches do not fit into the images, the network cannot take their size, or `augment.flip` is not
                one number per axis.
        """
        super().__init__()
        if not (0 <= foreground_probability <= 1 and 0 <= overlap < 1 and boundary_weight >= 0):
            raise ValueError(
                "segmenter.foreground_probability must lie in [0, 1], overlap in [0, 1) and boundary_weight be >= 0, "
                f"got {foreground_probability}, {overlap} and {boundary_weight}"
            )
        self.network, self.image_size = network, tuple(image_size)
        self.patch_size = None if patch_size is None else full_size(patch_size, len(self.image_size))
        self.foreground_probability, self.overlap, self.boundary_weight = (
            foreground_probability, overlap, boundary_weight
        )  # fmt: skip
        self.augment, self.optimizer = augment, optimizer
        if augment is not None:
            augment.flips(len(self.image_size))
        _require_sizes(self.image_size, self.patch_size, getattr(network, "size_divisor", 1))

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k *space"]:
        """Logits; by sliding-window inference if trained on patches."""
        if self.patch_size is None:
            logits: Tensor = self.network(images)
            return logits
        from monai.inferers.utils import sliding_window_inference

        found = sliding_window_inference(
            images, self.patch_size, 8, self.network, overlap=self.overlap, mode="gaussian"
        )
        assert isinstance(found, Tensor)
        return found

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, masks = self._augmented(*batch)  # (n, c, *space) and (n, *space); torch's loader makes a list of both
        outputs_of = getattr(self.network, "outputs", None)
        outputs = outputs_of(images) if outputs_of else [self.network(images)]
        loss = deep_supervision_loss(outputs, masks)
        return loss + self.boundary_weight * boundary_loss(outputs[0], masks) if self.boundary_weight else loss

    def _augmented(self, images: Tensor, masks: Tensor) -> tuple[Float[Tensor, "n c *_"], Int64[Tensor, "n *_"]]:
        """Patches are cut before they are transformed, because transforms cost time per pixel."""
        if self.patch_size is not None:
            images, masks = random_patches(images, masks, self.patch_size, self.foreground_probability)
        return (images, masks) if self.augment is None else self.augment.paired(images, masks)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])


def _require_sizes(image_size: tuple[int, ...], patch_size: tuple[int, ...] | None, divisor: int) -> None:
    if patch_size and any(small > large for small, large in zip(patch_size, image_size, strict=True)):
        raise InputError(
            f"segmenter.patch_size must fit into the images, got {_format(patch_size)} for images of "
            f"{_format(image_size)}; set a smaller one, or null for whole images"
        )
    size, name = (patch_size, "segmenter.patch_size") if patch_size else (image_size, "data.size")
    if any(side % divisor for side in size):
        near = _format(tuple(max(divisor, round(side / divisor) * divisor) for side in size))
        raise InputError(
            f"sides must be multiples of {divisor} for this network, got {name} {_format(size)}; set {near}, or use "
            "fedtune.segmentation.networks.EncoderUNet, which takes any size"
        )


def _format(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
