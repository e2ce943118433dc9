"""Virtual samples of FedVSS: images changed a little, to where a model is least stable or most confident."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, normalize

from fedcore.training.functional import Network


def adversarial_samples(
    f: Network, images: Float[Tensor, "n c *space"], logits: Float[Tensor, "n k"], eps: float, xi: float
) -> Float[Tensor, "n c *space"]:
    """Images changed to where f differs most from its `logits` of them: one power iteration from a random direction.

    At r = 0 the divergence and its gradient are zero, so the direction sought is the first eigenvector of its Hessian
    H, and the gradient at xi d is xi H d. `logits` must be f's in the same mode: with those of another mode, such as
    evaluation, the gradient at 0 is not zero and dominates H d.
    """
    r = (xi * unit_rms(torch.randn_like(images))).requires_grad_()
    (gradient,) = torch.autograd.grad(kl_divergence(logits, f(images + r)), r)
    return perturbed(images, eps * unit_rms(gradient))


def confident_samples(
    f: Network, images: Float[Tensor, "n c *space"], labels: Int64[Tensor, " n"], eps: float
) -> Float[Tensor, "n c *space"]:
    """Images changed to where f is more certain of their labels: one gradient step on the cross entropy."""
    x = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(f(x), labels), x)
    return perturbed(images, -eps * unit_rms(gradient))


def kl_divergence(p: Float[Tensor, "n k"], q: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """KL(p || q) of the distributions of these logits, mean over images; torch's own function takes q first."""
    return kl_div(q.log_softmax(1), p.log_softmax(1), reduction="batchmean", log_target=True)


def unit_rms(direction: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
    """Each image's direction scaled to a root mean square of 1 over its voxels and channels; zeros remain zeros."""
    flat, tiny = direction.flatten(1), torch.finfo(direction.dtype).tiny
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)  # else squares of tiny gradients are 0
    return (normalize(flat, dim=1) * flat.shape[1] ** 0.5).reshape(direction.shape)


def perturbed(images: Float[Tensor, "n c *space"], r: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
    """x + r, clipped to the range of images [-1, 1], which only shortens r."""
    return (images + r).clamp(-1, 1)
