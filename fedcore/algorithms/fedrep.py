"""FedRep: a shared representation, and a personal head at each site (Collins et al. 2021, arXiv 2102.07078).

In a recipe, with `visit: {max_epochs: 11}`::

    algorithm: {class_path: fedcore.algorithms.fedrep.FedRep, init_args: {head_epochs: 10}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer


@dataclass(frozen=True)
class FedRep(FedAvg):
    """A visit trains the site's head, then the body that was sent; the body is sent back, and the head stays.

    The head trains with the body as it was sent, the body with the trained head. A site is evaluated with its own
    head.
    A site that never trained and the server have the initial head and cannot classify. Our reading: one optimizer
    trains both parts, and the body's running statistics are updated in both.
    """

    head_epochs: int = 10
    """Number of epochs for the head, at the start of a visit; the remaining epochs are for the body. The paper has 10,
    then 1 to 5."""
    head: str = "head."
    """Prefix of the tensors that stay."""

    def __post_init__(self) -> None:
        if self.head_epochs < 1 or not self.head:
            raise ValueError(
                f"head_epochs must be at least 1 and head a prefix, got {self.head_epochs} and {self.head!r}"
            )

    def share(self, module: Any) -> tuple[str, ...]:
        """Full names of all tensors that the module shares, without its head.

        Raises:
            InputError: The module shares no head, or nothing else.
        """
        names = [name for name in module.state_dict() if name.startswith(tuple(module.share))]
        body = tuple(name for name in names if not name.startswith(self.head))
        if not body or len(body) == len(names):
            raise InputError(
                f"FedRep shares a body and keeps a head named {self.head}*, but {type(module).__name__} shares "
                f"{sorted({name.split('.')[0] + '.' for name in names}) or 'nothing'}; check that its encoder trains"
            )
        return body

    def start(self, local: LocalTrainer) -> Weights:
        visit = local.visit
        if visit.max_epochs <= self.head_epochs or visit.max_steps != -1:
            raise InputError(
                f"visit.max_epochs must be above FedRep's head_epochs, {self.head_epochs}, to train the body, and "
                f"visit.max_steps must be -1, got {visit.max_epochs} and {visit.max_steps}"
            )
        return super().start(local)

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        local.load(down.tensors)
        metrics = local.fit(site, turn, down.tensors, [_HeadThenBody(self.head, self.head_epochs)])
        return Contribution(site.name, Weights(local.shared()), site.size, metrics)


class _HeadThenBody(Callback):
    """Trains the head only, and after a number of epochs everything but the head."""

    def __init__(self, head: str, epochs: int):
        self.head, self.epochs = head, epochs
        self.trainable: list[tuple[str, nn.Parameter]] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        train_head = trainer.current_epoch < self.epochs
        for name, p in self.trainable:
            p.requires_grad_(name.startswith(self.head) == train_head)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._unfreeze()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._unfreeze()

    def _unfreeze(self) -> None:
        """The module goes to other sites, and other algorithms train all of it."""
        for _, p in self.trainable:
            p.requires_grad_()
