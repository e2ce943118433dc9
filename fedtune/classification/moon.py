"""MOON: features stay near those of the federation's model and away from the site's last (Li et al. 2021).

arXiv 2103.16257; model-contrastive learning of classifiers has also been proposed as FedCL (Liu et al. 2023), of which
we know no more than that. A callback for any module with an `encoder`, a classifier first of all. In a recipe::

    visit: {callbacks: [fedtune.classification.moon.ModelContrast]}
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
from fedcore.messages.message import Tensors
from fedcore.site.site import Round, Site
from fedcore.training.functional import evaluating, functional

LAST, ENCODER = "moon/", "encoder."


@dataclass(frozen=True)
class ModelContrast:
    """Adds mu l to the loss, l = -log e^(cos(z, z_glob)/tau) / (e^(cos(z, z_glob)/tau) + e^(cos(z, z_prev)/tau)).

    z is the encoder's feature of what it was last asked about in a step, z_glob that of the encoder which was sent,
    z_prev that of the site's own as its last visit left it. At a first visit there is none, l is 0 and has no slope.
    Our reading: z is the encoder's feature itself, for these classifiers have no projection head between it and their
    last layer, as the paper's networks do. As in the authors' code both other encoders are in evaluation mode.

    The metric `contrast` is l. An encoder stays in the site's memory; a step takes three forward passes of it and one
    backward, because the slope of l joins that of the loss where both reach z.
    """

    mu: float = 1.0
    """Weight, >= 0; the paper tunes it among 0.1, 1, 5 and 10. 0 is FedAvg."""
    tau: float = 0.5
    """Temperature, positive."""

    def __post_init__(self) -> None:
        if not (self.mu >= 0 and self.tau > 0):
            raise ValueError(f"mu must be >= 0 and tau positive, got {self}")

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        return _Contrast(self, _under(ENCODER, anchor), site)


class _Contrast(Callback):
    """Watches the encoder in each step, and adds to the gradient that its features get."""

    def __init__(self, how: ModelContrast, sent: Tensors, site: Site):
        self.how, self.sent, self.site, self.last = how, sent, site, _under(LAST, site.memory)
        self.images = self.features = torch.zeros(0)
        self.seeing: RemovableHandle | None = None
        self.total, self.count = torch.zeros(()), 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.sent:
            raise Refused(f"MOON holds an encoder against the one that was sent, but nothing named {ENCODER}* was")
        self.sent, self.last = ({k: t.to(module.device) for k, t in part.items()} for part in (self.sent, self.last))

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.total, self.count = torch.zeros((), device=module.device), 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, at: int) -> None:
        if self.last:
            self.seeing = _encoder(module).register_forward_hook(self._see)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        if not self.last:
            return
        self._look_away()
        with torch.no_grad(), evaluating(_encoder(module)), trainer.precision_plugin.forward_context():
            sent, last = (
                functional(_encoder(module), weights)(self.images).float() for weights in (self.sent, self.last)
            )
        z = self.features.detach().float().requires_grad_()
        contrast = model_contrast(z, sent, last, self.how.tau)
        (slope,) = torch.autograd.grad(self.how.mu * contrast, z)
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # float16's: the loss is scaled, and what it meets
        slope = slope if scaler is None else scaler.scale(slope)
        self.features.register_hook(lambda of_the_loss: of_the_loss + slope.to(of_the_loss.dtype))
        self.total += contrast.detach() * len(z)
        self.count += len(z)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        own = {LAST + k: t.detach().cpu().clone() for k, t in _encoder(module).state_dict().items()}
        self.site.memory = self.site.memory | own

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._look_away()

    def report(self) -> dict[str, float]:
        return {"contrast": float(self.total) / self.count} if self.count else {}

    def _see(self, encoder: nn.Module, asked: tuple[Tensor, ...], features: Tensor) -> None:
        if not features.requires_grad:
            raise Refused("MOON pulls at an encoder, and this one is frozen; set classifier.init_args.frozen to false")
        self.images, self.features = asked[0].detach(), features

    def _look_away(self) -> None:
        """The module goes on to other sites, and must not take along who sees its images."""
        if self.seeing is not None:
            self.seeing.remove()


def model_contrast(
    z: Float[Tensor, "n d"], sent: Float[Tensor, "n d"], last: Float[Tensor, "n d"], tau: float
) -> Float[Tensor, ""]:
    """Eq. 3 of the paper, mean over images; of two classes the softmax is a sigmoid."""
    return softplus((cosine_similarity(z, last) - cosine_similarity(z, sent)) / tau).mean()


def _encoder(module: LightningModule) -> nn.Module:
    encoder = module.encoder
    assert isinstance(encoder, nn.Module)
    return encoder


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
