"""Asking a module in the middle of its training, with other weights or in another mode, without a trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.func import functional_call

from fedcore.messages.message import Tensors

Network = Callable[[Tensor], Tensor]
"""Images (n, c, *space) to what the module answers, such as logits (n, k)."""


def aside(module: nn.Module, weights: Tensors | None = None) -> Network:
    """The module with `weights` in place of its own, as a function that leaves no trace in its buffers.

    So batch norm takes the statistics of the batch that it is asked about, but its running ones stay those of the
    images that train it, on whose like it will be evaluated. (Miyato et al.'s code does so for virtual images, which
    have other statistics: Xie et al. 2020, arXiv 1911.09665.)
    """

    def f(images: Tensor) -> Tensor:
        buffers = {name: t.clone() for name, t in module.named_buffers()}
        return functional_call(module, buffers | (weights or {}), (images,))

    return f


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; then each part in its own again, as a frozen encoder differs from its head."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
