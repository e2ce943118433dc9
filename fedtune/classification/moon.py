"""MOON, model-contrastive federated learning (Li et al. 2021, arXiv 2103.16257).

Features stay near those of the received model and away from those of the site's previous model. FedCL (Liu et al.
2023) also proposes model-contrastive learning of classifiers; we have not seen more of it than that. MOON works with
any module that has an `encoder`, such as a classifier. In a recipe::

    visit: {callbacks: [fedtune.classification.moon.MOON]}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, softplus
from torch.utils.hooks import RemovableHandle

from fedcore.errors import Refused
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.functional import evaluating, functional

PREVIOUS, ENCODER = "moon/", "encoder."
"""Prefixes: of the previous encoder in the site's memory, and of the encoder in the module."""


@dataclass(frozen=True)
class MOON:
    """Adds mu l to the loss, l = -log e^(cos(z, z_glob)/tau) / (e^(cos(z, z_glob)/tau) + e^(cos(z, z_prev)/tau)).

    z are the features of the encoder's last forward pass in a step, z_glob those of the received encoder, z_prev those
    of the site's encoder at the end of its previous visit. A first visit has no previous encoder: l is 0, and so is its
    gradient. Our reading: z are the features of the encoder itself, because these classifiers have no projection head
    between encoder and last layer, as the paper's networks do. As in the authors' code, both other encoders are in
    evaluation mode.

    The metric `moon_loss` is l. The previous encoder stays in the site's memory. A step takes three forward passes of
    the encoder and one backward pass, because the gradient of l is added to that of the loss where both reach z.
    """

    metric_names = ("moon_loss",)

    mu: float = 1.0
    """Weight, >= 0; the paper tunes it among 0.1, 1, 5 and 10. 0 is FedAvg."""
    tau: float = 0.5
    """Temperature, positive."""

    def __post_init__(self) -> None:
        if not (self.mu >= 0 and self.tau > 0):
            raise ValueError(f"mu must be >= 0 and tau positive, got {self}")

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        return _MOONCallback(self, _select(ENCODER, anchor), site)


class _MOONCallback(Callback):
    """Reads the encoder's features in each step, and adds the gradient of l to theirs."""

    def __init__(self, settings: MOON, received: Tensors, site: Site):
        self.settings, self.site = settings, site
        self.received, self.previous = received, _select(PREVIOUS, site.memory)
        self.images = self.features = torch.zeros(0)
        self.hook: RemovableHandle | None = None
        self.total, self.count = torch.zeros(()), 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.received:
            raise Refused(
                f"MOON compares with the received encoder, and no received weight is named {ENCODER}*; share the "
                "encoder"
            )
        self.received, self.previous = (
            {k: t.to(module.device) for k, t in part.items()} for part in (self.received, self.previous)
        )

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.total, self.count = torch.zeros((), device=module.device), 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, at: int) -> None:
        if self.previous:
            self.hook = _encoder(module).register_forward_hook(self._store_features)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        if not self.previous:
            return
        self._remove_hook()
        with torch.no_grad(), evaluating(_encoder(module)), trainer.precision_plugin.forward_context():
            received, previous = (
                functional(_encoder(module), weights)(self.images).float() for weights in (self.received, self.previous)
            )
        z = self.features.detach().float().requires_grad_()
        contrastive = moon_loss(z, received, previous, self.settings.tau)
        (gradient,) = torch.autograd.grad(self.settings.mu * contrastive, z)
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # float16 scales the loss, so its gradient too
        gradient = gradient if scaler is None else scaler.scale(gradient)
        self.features.register_hook(lambda of_loss: of_loss + gradient.to(of_loss.dtype))
        self.total += contrastive.detach() * len(z)
        self.count += len(z)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        own = {PREVIOUS + k: t.detach().cpu().clone() for k, t in _encoder(module).state_dict().items()}
        self.site.memory = self.site.memory | own

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._remove_hook()

    def report(self) -> dict[str, float]:
        return {"moon_loss": float(self.total) / self.count} if self.count else {}

    def _store_features(self, encoder: nn.Module, inputs: tuple[Tensor, ...], features: Tensor) -> None:
        if not features.requires_grad:
            raise Refused(
                "MOON trains the encoder, and this one is frozen; set classifier.init_args.freeze_encoder false"
            )
        self.images, self.features = inputs[0].detach(), features

    def _remove_hook(self) -> None:
        """The module is used at other sites next; a hook left behind would keep this site's images."""
        if self.hook is not None:
            self.hook.remove()


def moon_loss(
    z: Float[Tensor, "n d"], received: Float[Tensor, "n d"], previous: Float[Tensor, "n d"], tau: float
) -> Float[Tensor, ""]:
    """Eq. 3 of the paper, mean over images; with two terms the softmax is a sigmoid."""
    return softplus((cosine_similarity(z, previous) - cosine_similarity(z, received)) / tau).mean()


def _encoder(module: LightningModule) -> nn.Module:
    encoder = module.encoder
    assert isinstance(encoder, nn.Module)
    return encoder


def _select(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors with this prefix, without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
