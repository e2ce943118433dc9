"""The base class of models that sites train together and that become generators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from fedcore.data.dataset import Target
from fedcore.errors import Refused
from fedcore.messages.round import Round
from fedgen.generator import UNCONDITIONED, Conditions, Generator, ImageShape

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]


class GenerativeModel(pl.LightningModule):
    """Learns from a site's images and their labels; the only base class of fedgen, as Method is of fedssl."""

    share: ClassVar[tuple[str, ...]]
    """Prefixes of the state that travels."""
    generator_prefix: ClassVar[str] = "ema."
    """Prefix of the weights that the generator uses."""
    targets: ClassVar[Target | tuple[Target, ...]] = "labels"
    scratch: ClassVar[tuple[str, ...]] = ("site",)
    """What a visit may change outside of the state, see `fedcore.training.unsaved_state`."""

    def __init__(self, image_shape: ImageShape, conditions: Conditions):
        super().__init__()
        self.image_shape, self.conditions = image_shape, conditions
        self.site = UNCONDITIONED

    def on_visit_start(self, site: str, turn: Round) -> None:
        """Conditions the images of this visit on the site, if the model has sites."""
        if not self.conditions.sites:
            return
        if site not in self.conditions.sites:
            raise Refused(f"this site is not one of the generator's sites ({', '.join(self.conditions.sites)})")
        self.site = self.conditions.site_index(site)

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, labels = batch  # (n, c, *space) in [-1, 1] and (n,), UNCONDITIONED where an image has no label
        return self.loss(images, labels, torch.full_like(labels, self.site))

    @abstractmethod
    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]: ...

    @property
    @abstractmethod
    def generator(self) -> Generator:
        """The generator with the current weights."""
