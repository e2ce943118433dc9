"""FedVSS: a classifier also learns from virtual samples of its images (Zhu & Luo 2022, MICCAI, LNCS 13433:728).

A local virtual sample is where the site's own model changes its mind most, a global one where the model that the
server sent is surest of the label; both are made anew at every step and stay at the site, for any classifier:

    visit: {callbacks: [fedgen.federated.fedvss.VirtualSamples]}

Our reading: the abstract names both kinds of sample, and all formulas and default values here are ours. The local
search is that of virtual adversarial training (Miyato et al. 2018, arXiv 1704.03976). At a global sample the model is
drawn to the answer of the server's model, not to the label: the sample was made easier than its image, so the cross
entropy of the label repeats the image's own gradient there, and less of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, normalize
from torch.utils.hooks import RemovableHandle

from fedcore.errors import Refused
from fedcore.messages.message import Tensors
from fedcore.site.site import Round, Site
from fedcore.training.functional import Network, evaluating, functional


@dataclass(frozen=True)
class VirtualSamples:
    """Adds lambda_l KL(f(x) || f(x_l)) + lambda_g KL(f_G(x_g) || f(x_g)) to the loss; f is the module as it trains.

    x_l = x + argmax_r KL(f(x) || f(x + r)) and x_g = x + argmin_r CE(f_G(x + r), y), |r| <= eps, each by one gradient;
    f_G is what the server sent, and the site's own in what does not travel. x is what the module was last asked about
    in its step: on images without the random views that it learns from, these losses would teach it to know them by
    heart. The metrics `virtual_local` and `virtual_global` are the two losses.

    Magnitudes, of a ResNet-10 after 300 steps on phantom hospitals (32 x 32, cross entropy 0.28): the local divergence
    was 1.68 at eps 0.02, six times the task, 0.42 at 0.005 and 0.12 at 0.002. The gradient of the global one, 20 local
    steps behind the server's model, was 0.22, 0.51 and 0.77 times as long as that of the cross entropy.

    A step takes 7 forward and 5 backward passes instead of one of each: 3 and 2 are for the local samples, 3 and 2 for
    the global ones. One backward pass of either goes to the images alone. Memory is that of one pass.
    """

    lambda_l: float = 0.3
    """Weight of the local samples, >= 0; 0 leaves them out."""
    lambda_g: float = 0.3
    """Weight of the global samples, >= 0; 0 leaves them out. With both at 0 it is FedAvg."""
    eps: float = 0.005
    """Greatest change of an image, > 0: the root mean square over its voxels, of intensities in [-1, 1]. Miyato
    et al. bound the length, sqrt(voxels) times this, which would have to change with the size of the images."""
    xi: float = 0.01
    """Length of the random probe of the local search, > 0, measured as eps. Too long and the search is no longer to
    first order, too short and it sees rounding: the 1e-6 of Miyato et al. is below that of a voxel in float32."""

    def __post_init__(self) -> None:
        if not (self.lambda_l >= 0 and self.lambda_g >= 0 and self.eps > 0 and self.xi > 0):
            raise ValueError(f"lambda_l and lambda_g must be >= 0, eps and xi positive, got {self}")

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        return _Learn(self, anchor)


class _Learn(Callback):
    """Adds the gradients of the two losses to those of the module's own, at the same weights."""

    def __init__(self, how: VirtualSamples, anchor: Tensors):
        self.how, self.anchor = how, anchor
        self.images = self.labels = torch.zeros(0)
        self.seeing: RemovableHandle | None = None
        self.totals: dict[str, Tensor] = {}
        self.count = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if getattr(module, "targets", None) != "labels":
            raise Refused(f"virtual samples are made for labels, and {type(module).__name__} trains on none")
        self.anchor = {k: t.to(module.device) for k, t in self.anchor.items()}

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.totals, self.count = {}, 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, at: int) -> None:
        self.images, self.labels = batch
        self.seeing = module.register_forward_pre_hook(self._see)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._look_away()

    def on_after_backward(self, trainer: Trainer, module: LightningModule) -> None:
        self._look_away()
        how, images, labels, f = self.how, self.images, self.labels, functional(module)
        self.count += len(images)
        # The searches are outside the trainer's precision: their differences are smaller than bfloat16's rounding, and
        # small gradients vanish in float16.
        if how.lambda_l:
            with torch.no_grad():
                answer = f(images)
            virtual = adverse(f, images, answer, how.eps, how.xi)
            self._add(trainer, "virtual_local", how.lambda_l, lambda: divergence(answer, f(virtual)))
        if how.lambda_g:
            sent = functional(module, self.anchor)
            with evaluating(module):
                sure = confident(sent, images, labels, how.eps)
                with torch.no_grad():
                    wanted = sent(sure)
            self._add(trainer, "virtual_global", how.lambda_g, lambda: divergence(wanted, f(sure)))

    def report(self) -> dict[str, float]:
        return {name: float(total) / self.count for name, total in self.totals.items()}

    def _see(self, module: nn.Module, asked: tuple[Tensor, ...]) -> None:
        self.images = asked[0].detach()

    # Registered anew at each step and taken away before the searches, which ask the module too.
    def _look_away(self) -> None:
        """The module goes on to other sites, and must not take along who sees its images."""
        if self.seeing is not None:
            self.seeing.remove()

    def _add(self, trainer: Trainer, name: str, weight: float, loss_of: Callable[[], Tensor]) -> None:
        plugin = trainer.precision_plugin
        with plugin.forward_context():
            loss = loss_of()
        scaler = getattr(plugin, "scaler", None)  # float16's: the gradients that are there are scaled too
        objective = weight * loss
        (objective if scaler is None else scaler.scale(objective)).backward()
        self.totals[name] = self.totals.get(name, torch.zeros_like(loss)) + loss.detach() * len(self.images)


def adverse(
    f: Network, images: Float[Tensor, "n c *space"], answer: Float[Tensor, "n k"], eps: float, xi: float
) -> Float[Tensor, "n c *space"]:
    """Images moved to where f departs most from its `answer` to them: one power iteration from a random direction.

    At r = 0 the divergence and its slope are zero, so the direction sought is the first eigenvector of its Hessian H,
    and the slope a little way along d, at xi d, is xi H d. `answer` must be f's in the same mode: from another, as in
    evaluation, the slope at 0 is not zero and drowns H d.
    """
    r = (xi * unit(torch.randn_like(images))).requires_grad_()
    (slope,) = torch.autograd.grad(divergence(answer, f(images + r)), r)
    return moved(images, eps * unit(slope))


def confident(
    f: Network, images: Float[Tensor, "n c *space"], labels: Int64[Tensor, " n"], eps: float
) -> Float[Tensor, "n c *space"]:
    """Images moved to where f is surer of their labels: a step down the slope of the cross entropy."""
    x = images.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(f(x), labels), x)
    return moved(images, -eps * unit(slope))


def divergence(p: Float[Tensor, "n k"], q: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """KL(p || q) of the distributions of logits, mean over images; torch's own function takes q first."""
    return kl_div(q.log_softmax(1), p.log_softmax(1), reduction="batchmean", log_target=True)


def unit(direction: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
    """Each image's direction with a root mean square of 1 over all its voxels and channels; zeros where it has none."""
    flat, tiny = direction.flatten(1), torch.finfo(direction.dtype).tiny
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)  # else the squares of a sure model's slope are 0
    return (normalize(flat, dim=1) * flat.shape[1] ** 0.5).reshape(direction.shape)


def moved(images: Float[Tensor, "n c *space"], r: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
    """x + r within [-1, 1], where every image lies: air cannot be blacker than air. It only shortens r."""
    return (images + r).clamp(-1, 1)
