"""What a model must say to become a generator that hospitals train together."""

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
from fedcore.site.site import Round
from fedgen.generator import UNCONDITIONED, Conditions, Generator, ImageShape

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]


class Generative(pl.LightningModule):
    """Learns from a site's images and their labels; the one base class of fedgen, as Method is fedssl's."""

    share: ClassVar[tuple[str, ...]]
    """Prefixes of the state that travels."""
    draws: ClassVar[str] = "average."
    """Prefix of the tensors that draw."""
    targets: ClassVar[Target | tuple[Target, ...]] = "labels"

    def __init__(self, canvas: ImageShape, known: Conditions):
        super().__init__()
        self.canvas, self.known = canvas, known
        self.site = UNCONDITIONED

    def on_visit_start(self, site: str, turn: Round) -> None:
        """Images of this visit are of this site, where the generator tells sites apart."""
        if not self.known.sites:
            return
        if site not in self.known.sites:
            raise Refused(f"the generator knows the sites {', '.join(self.known.sites)} and was sent to another")
        self.site = self.known.site(site)

    def training_step(self, batch: Sequence[Tensor], _: int) -> Tensor:
        images, labels = batch  # (n, c, *space) in [-1, 1] and (n,), UNSAID where an image has none
        return self.loss(images, labels, torch.full_like(labels, self.site))

    @abstractmethod
    def loss(
        self, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"]
    ) -> Float[Tensor, ""]: ...

    @property
    @abstractmethod
    def generator(self) -> Generator:
        """What draws, as it stands."""
