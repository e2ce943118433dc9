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
from fedtune.segmentation.losses import boundary, deep_dice_ce
from fedtune.segmentation.patches import random_patches

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
MILD = Views(count=1, crop=(0.7, 1.0), flip=0.0)
"""Nothing is mirrored, since structures may differ by their side: left from right kidney, head from tail."""


class Segmenter(pl.LightningModule):
    """Dice + cross entropy on masks of class numbers, deeply supervised where the network is; everything travels."""

    targets: ClassVar[Target] = "masks"
    share: ClassVar[tuple[str, ...]] = ("network.",)

    def __init__(
        self, network: nn.Module, space: Sequence[int], patch: int | Sequence[int] | None = None,
        foreground: float = 0.5, overlap: float = 0.5, boundary: float = 0.0, augment: Views | None = MILD,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=1e-3, weight_decay=1e-4),
    ):  # fmt: skip
        """
        Args:
            network: As `fedtune.segmentation.networks`.
            space: Size of the images; a run takes it from its data.
            patch: Size of the patches that are learned from, and of the window that slides while predicting; null:
                whole images.
            foreground: Probability that a patch is centred on a structure, in [0, 1].
            overlap: Of windows that slide, in [0, 1); more is smoother and slower. Their borders count less, by a
                Gaussian.
            boundary: Weight of the boundary loss beside Dice and cross entropy, >= 0; it costs time on the CPU.
            augment: Random transforms of a training image and its mask, one view; null for none.
            optimizer: Builds the optimizer of a visit.

        Raises:
            InputError: Patches do not fit into the images, the network cannot take their size, or `augment` mirrors
                other axes than theirs.
        """
        super().__init__()
        if not (0 <= foreground <= 1 and 0 <= overlap < 1 and boundary >= 0):
            raise ValueError(
                "segmenter.foreground must lie in [0, 1], overlap in [0, 1) and boundary be >= 0, got "
                f"{foreground}, {overlap} and {boundary}"
            )
        self.network, self.space = network, tuple(space)
        self.patch = None if patch is None else full_size(patch, len(self.space))
        self.foreground, self.overlap, self.boundary = foreground, overlap, boundary
        self.augment, self.optimizer = augment, optimizer
        if augment is not None:
            augment.flips(len(self.space))
        _require_sizes(self.space, self.patch, getattr(network, "multiple", 1))

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k *space"]:
        """Logits, of windows that slide where there are patches."""
        if self.patch is None:
            logits: Tensor = self.network(images)
            return logits
        from monai.inferers.utils import sliding_window_inference

        found = sliding_window_inference(images, self.patch, 8, self.network, overlap=self.overlap, mode="gaussian")
        assert isinstance(found, Tensor)
        return found

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, masks = self._views(*batch)  # (n, c, *space) and (n, *space); torch's loader makes a list of the pair
        several = getattr(self.network, "outputs", None)
        outputs = several(images) if several else [self.network(images)]
        loss = deep_dice_ce(outputs, masks)
        return loss + self.boundary * boundary(outputs[0], masks) if self.boundary else loss

    def _views(self, images: Tensor, masks: Tensor) -> tuple[Float[Tensor, "n c *_"], Int64[Tensor, "n *_"]]:
        """The patch is cut before it is transformed, which costs less by as much as it is smaller."""
        if self.patch is not None:
            images, masks = random_patches(images, masks, self.patch, self.foreground)
        return (images, masks) if self.augment is None else self.augment.paired(images, masks)

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])


def _require_sizes(space: tuple[int, ...], patch: tuple[int, ...] | None, multiple: int) -> None:
    if patch and any(small > large for small, large in zip(patch, space, strict=True)):
        raise InputError(
            f"segmenter.patch must fit into the images, got {_times(patch)} for images of {_times(space)}; a smaller "
            "patch, or null for whole images"
        )
    shown, name = (patch, "segmenter.patch") if patch else (space, "data.size")
    if any(side % multiple for side in shown):
        near = _times(tuple(max(multiple, round(side / multiple) * multiple) for side in shown))
        raise InputError(
            f"sides must be multiples of {multiple} for this network, got {name} {_times(shown)}; {near} would do, or "
            "fedtune.segmentation.networks.UShaped, which takes any size"
        )


def _times(space: tuple[int, ...]) -> str:
    return " x ".join(map(str, space))
