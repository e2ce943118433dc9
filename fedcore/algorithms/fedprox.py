"""FedProx: a proximal term keeps local weights near the global ones (Li et al. 2020, arXiv 1812.06127).

It works with any LightningModule, because the term acts on gradients and not on losses. In a recipe, FedProx is FedAvg
(the default algorithm) with this callback::

    visit: {callbacks: [fedcore.algorithms.fedprox.ProximalTerm]}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site


@dataclass(frozen=True)
class ProximalTerm:
    """Adds mu * (w - w_global) to the gradient, the derivative of the paper's proximal term."""

    mu: float = 0.01
    """Weight of the proximal term, >= 0; 0 is FedAvg."""

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ValueError(f"mu must be >= 0, got {self.mu}")

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        return _AddGradient(self.mu, anchor)


class _AddGradient(Callback):
    def __init__(self, mu: float, anchor: Tensors):
        self.mu, self.anchor = mu, anchor

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.anchor = {k: t.to(module.device) for k, t in self.anchor.items()}

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        pairs = [(p, self.anchor[k]) for k, p in module.named_parameters() if p.grad is not None and k in self.anchor]
        if pairs:
            weights, anchors = map(list, zip(*pairs, strict=True))
            torch._foreach_add_([p.grad for p in weights], torch._foreach_sub(weights, anchors), alpha=self.mu)
