"""The settings of a visit (how a site trains in one round), and the quiet Lightning Trainer that it uses."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from lightning_fabric.utilities import registry
from pytorch_lightning import Callback, LightningModule, Trainer

from fedcore.errors import InputError
from fedcore.training.callbacks import LocalCallback

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


@dataclass(frozen=True)
class Visit:
    """How long and how a site trains in one round; options have the names of Lightning's Trainer."""

    batch_size: int = 64
    """Images per step. A site with fewer images trains on all of them at once."""
    max_epochs: int = 1
    """Passes over the site's images."""
    max_steps: int = -1
    """Maximum number of optimizer steps; -1: no maximum, 0: no step."""
    accelerator: str = "auto"
    """`auto` uses a GPU if there is one."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """bf16-mixed about halves time and memory on a recent GPU; a CPU with bf16 instructions (AVX512-BF16, AMX) trains
    1.6 to 1.9 times as fast with it, an older CPU more slowly. 16-mixed searches its loss scale again in each visit and
    may skip the first steps; use bf16-mixed where visits are short."""
    gradient_clip_val: float | None = None
    """Maximum gradient norm; null: no clipping."""
    keep_optimizer: bool = False
    """Keep the optimizer's state (momentum and the like) at the site between visits; on disk this takes, for Adam, the
    size of two models per site. false: each visit starts with a new optimizer."""
    compile: bool = False
    """Compile the shared part of the module with torch.compile: takes a minute at the first step and again for
    each new batch size (at most eight), so use it for long runs. On a CPU it needs a C++ compiler; MoCo with ResNet-10
    then trains 1.3 times as fast in 32-true, and no faster in bf16-mixed. A resumed run may differ in the last
    digits."""
    callbacks: tuple[LocalCallback, ...] = ()
    """Callbacks of local training, such as the proximal term of FedProx or a learning rate schedule."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_epochs < 1 or self.max_steps < -1:
            raise ValueError(
                "visit.batch_size and visit.max_epochs must be at least 1 and visit.max_steps at least -1, "
                f"got {self.batch_size}, {self.max_epochs} and {self.max_steps}"
            )
        if self.gradient_clip_val is not None and self.gradient_clip_val <= 0:
            raise ValueError(f"visit.gradient_clip_val must be positive or null, got {self.gradient_clip_val}")
        if self.accelerator not in ACCELERATORS:
            raise ValueError(f"visit.accelerator must be one of {', '.join(ACCELERATORS)}, got {self.accelerator!r}")
        if self.accelerator in ("gpu", "cuda", "mps") and not torch.accelerator.is_available():
            raise ValueError(
                f"visit.accelerator is {self.accelerator}, but torch finds no GPU; run fedpretrain doctor, or set auto"
            )

    @property
    def device(self) -> torch.device:
        """The device of training and evaluation."""
        return torch.device("cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu")

    def require_supported(self, space: tuple[int, ...]) -> None:
        """Raises InputError where torch computes wrong gradients for images of this size.

        In torch 2.15 on a CPU, bf16 gradients of convolutions are random on the smallest maps: of 2 voxels in 3D, and
        of 1 pixel in 2D, which an encoder that divides by 32 reaches below 32 pixels. Losses do not show it.
        """
        if self.precision == "bf16-mixed" and self.device.type == "cpu" and (len(space) > 2 or min(space) < 32):
            raise InputError(
                "visit.precision bf16-mixed needs images of at least 32 x 32 pixels on a CPU, and no volumes, because "
                f"torch's gradients of small maps are wrong; these are {' x '.join(map(str, space))}: set 32-true"
            )

    def trainer(self, callbacks: Sequence[Callback]) -> Trainer:
        """A Trainer that prints, writes and validates nothing."""
        registry.entry_points = _entry_points  # type: ignore[attr-defined, assignment]
        return Trainer(
            max_epochs=self.max_epochs, max_steps=self.max_steps, accelerator=self.accelerator, devices=1,
            precision=self.precision, gradient_clip_val=self.gradient_clip_val, callbacks=list(callbacks),
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False, barebones=False,
        )  # fmt: skip


class ClipFused(Callback):
    """Lets Lightning clip gradients of a fused optimizer in bf16.

    Lightning refuses this in mixed precision, because a loss scaler changes the size of gradients; bf16 has no scaler.
    """

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


# Each Trainer searches all installed distributions for plug-ins: 6 ms, half of a visit's time besides its steps.
_entry_points = cache(registry.entry_points)  # type: ignore[attr-defined]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the hardware lines and loader advice that Lightning prints at every fit."""
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning.*")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
