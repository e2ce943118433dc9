"""FedRep: sites learn a representation together and a head each for itself (Collins et al. 2021, arXiv 2102.07078).

In a recipe, with `visit: {max_epochs: 11}`::

    algorithm: {class_path: fedcore.algorithms.fedrep.FedRep, init_args: {head_epochs: 10}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from fedcore.algorithms.base import FedAvg
from fedcore.errors import InputError
from fedcore.messages.message import Contribution, Weights
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer


@dataclass(frozen=True)
class FedRep(FedAvg):
    """A visit trains the site's head on the body that was sent, then the body under that head; the body travels.

    The head stays at its site, which is evaluated with it. One that never trained has the head that the model began
    with, as has the server's own model: neither can classify yet. Our reading: one optimizer serves both parts, and
    running statistics of the body follow the images in either.
    """

    head_epochs: int = 10
    """The first of the visit's epochs, for the head; those left are the body's. The paper takes 10, then 1 to 5."""
    head: str = "head."
    """Prefix of what stays."""

    def __post_init__(self) -> None:
        if self.head_epochs < 1 or not self.head:
            raise ValueError(
                f"head_epochs must be at least 1 and head a prefix, got {self.head_epochs} and {self.head!r}"
            )

    def share(self, module: Any) -> tuple[str, ...]:
        """All that the module shares but its head, name by name.

        Raises:
            InputError: It shares no head, or nothing else.
        """
        names = [name for name in module.state_dict() if name.startswith(tuple(module.share))]
        body = tuple(name for name in names if not name.startswith(self.head))
        if not body or len(body) == len(names):
            raise InputError(
                f"FedRep shares a body and keeps a head named {self.head}*, but {type(module).__name__} shares "
                f"{sorted({name.split('.')[0] + '.' for name in names}) or 'nothing'}; is its encoder frozen?"
            )
        return body

    def start(self, local: LocalTrainer) -> Weights:
        visit = local.visit
        if visit.max_epochs <= self.head_epochs or visit.max_steps != -1:
            raise InputError(
                f"visit.max_epochs must be above FedRep's head_epochs, {self.head_epochs}, for the body to train, and "
                f"visit.max_steps -1, got {visit.max_epochs} and {visit.max_steps}"
            )
        return super().start(local)

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        local.load(down.tensors)
        guides = [g.callback(down.tensors, site, turn) for g in self.guides]
        metrics = local.fit(site, turn, [_Alternate(self.head, self.head_epochs), *guides])
        return Contribution(site.name, Weights(local.shared()), site.size, metrics)


class _Alternate(Callback):
    """Lets gradients reach the head alone, and after so many epochs all but the head."""

    def __init__(self, head: str, epochs: int):
        self.head, self.epochs = head, epochs
        self.trained: list[tuple[str, nn.Parameter]] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        at_head = trainer.current_epoch < self.epochs
        for name, p in self.trained:
            p.requires_grad_(name.startswith(self.head) == at_head)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._release()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        """The module goes on to other sites, and to algorithms that train all of it."""
        for _, p in self.trained:
            p.requires_grad_()
