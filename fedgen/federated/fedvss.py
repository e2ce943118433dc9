"""FedVSS: a classifier also learns from virtual samples (Zhu & Luo 2022, MICCAI, LNCS 13433:728).

Local virtual samples are adversarial: at them, the site's own model changes its prediction most. Global virtual samples
are high-confidence: at them, the model that the server sent is more certain of the label. Both are made again at every
step and stay at the site. A local callback of any classifier adds their losses:

    visit: {callbacks: [fedgen.federated.fedvss.FedVSS]}

Our reading: the abstract names both kinds of sample, and all formulas and default values here are ours. The search for
adversarial samples is that of virtual adversarial training (Miyato et al. 2018, arXiv 1704.03976). At a high-confidence
sample the target is the prediction of the server's model, not the label: the sample is easier than its image, so the
cross entropy of the label would only repeat a part of the image's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedcore.errors import Refused
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.functional import evaluating, functional
from fedgen.federated.virtual_samples import adversarial_samples, confident_samples, kl_divergence


@dataclass(frozen=True)
class FedVSS:
    """Adds lambda_l KL(f(x) || f(x_l)) + lambda_g KL(f_G(x_g) || f(x_g)) to the loss; f is the module in training.

    Adversarial samples x_l = x + argmax_r KL(f(x) || f(x + r)) and high-confidence samples x_g = x + argmin_r
    CE(f_G(x + r), y), |r| <= eps, each by one gradient; f_G is the server's model, with the site's own weights where
    they do not travel. x is the last input of the module in the step, after augmentation: on images without
    augmentation these losses would make it memorise them. The metrics `adversarial_kl` and `confident_kl` are the two
    divergences.

    Magnitudes, of a ResNet-10 after 300 steps on simulated hospitals (32 x 32, cross entropy 0.28): the adversarial
    divergence was 1.68 at eps 0.02, six times the cross entropy, 0.42 at 0.005 and 0.12 at 0.002. The gradient of the
    other divergence, 20 local steps after the server's model, was 0.22, 0.51 and 0.77 times as long as that of the
    cross entropy.

    A step takes 7 forward and 5 backward passes instead of one of each: 3 and 2 are for the adversarial samples, 3 and
    2 for the high-confidence ones. One backward pass of either goes to the images alone. Memory is that of one pass.
    """

    metric_names = ("adversarial_kl", "confident_kl")

    lambda_l: float = 0.3
    """Weight of the adversarial (local) samples, >= 0; 0: none."""
    lambda_g: float = 0.3
    """Weight of the high-confidence (global) samples, >= 0; 0: none. With both at 0 it is FedAvg."""
    eps: float = 0.005
    """Largest change of an image, > 0: the root mean square over its voxels, of intensities in [-1, 1]. Miyato
    et al. bound the length, sqrt(voxels) times this, which would have to change with the size of the images."""
    xi: float = 0.01
    """Length of the random start of the adversarial search, > 0, measured as eps. If too long, the search is no longer
    to first order; if too short, it measures rounding: the 1e-6 of Miyato et al. is below that of float32."""

    def __post_init__(self) -> None:
        if not (self.lambda_l >= 0 and self.lambda_g >= 0 and self.eps > 0 and self.xi > 0):
            raise ValueError(f"lambda_l and lambda_g must be >= 0, eps and xi positive, got {self}")

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        return _FedVSSCallback(self, anchor)


class _FedVSSCallback(Callback):
    """Adds the gradients of the two losses to those of the module's own loss, at the same weights."""

    def __init__(self, settings: FedVSS, anchor: Tensors):
        self.settings, self.anchor = settings, anchor
        self.images = self.labels = torch.zeros(0)
        self.hook: RemovableHandle | None = None
        self.totals: dict[str, Tensor] = {}
        self.count = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if getattr(module, "targets", None) != "labels":
            raise Refused(f"FedVSS needs a module that trains on labels, and {type(module).__name__} does not")
        self.anchor = {k: t.to(module.device) for k, t in self.anchor.items()}

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.totals, self.count = {}, 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, at: int) -> None:
        self.images, self.labels = batch
        self.hook = module.register_forward_pre_hook(self._record_input)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._remove_hook()

    def on_after_backward(self, trainer: Trainer, module: LightningModule) -> None:
        self._remove_hook()
        settings, images, labels, f = self.settings, self.images, self.labels, functional(module)
        self.count += len(images)
        # The searches do not use the trainer's precision: their differences are smaller than bfloat16's rounding, and
        # small gradients vanish in float16.
        if settings.lambda_l:
            with torch.no_grad():
                logits = f(images)
            adversarial = adversarial_samples(f, images, logits, settings.eps, settings.xi)
            self._add(trainer, "adversarial_kl", settings.lambda_l, lambda: kl_divergence(logits, f(adversarial)))
        if settings.lambda_g:
            server_model = functional(module, self.anchor)
            with evaluating(module):
                confident = confident_samples(server_model, images, labels, settings.eps)
                with torch.no_grad():
                    target = server_model(confident)
            self._add(trainer, "confident_kl", settings.lambda_g, lambda: kl_divergence(target, f(confident)))

    def report(self) -> dict[str, float]:
        return {name: float(total) / self.count for name, total in self.totals.items()}

    def _record_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.images = inputs[0].detach()

    def _remove_hook(self) -> None:
        """Before the searches, which call the module too, and because the module moves on to other sites."""
        if self.hook is not None:
            self.hook.remove()

    def _add(self, trainer: Trainer, name: str, weight: float, loss_of: Callable[[], Tensor]) -> None:
        plugin = trainer.precision_plugin
        with plugin.forward_context():
            loss = loss_of()
        scaler = getattr(plugin, "scaler", None)  # of float16; the gradients of the module's loss are scaled too
        objective = weight * loss
        (objective if scaler is None else scaler.scale(objective)).backward()
        self.totals[name] = self.totals.get(name, torch.zeros_like(loss)) + loss.detach() * len(self.images)
