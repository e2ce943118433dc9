"""A module as a function during its training, with other weights or in evaluation mode, without side effects on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.func import functional_call

from fedcore.messages.tensors import Tensors

Network = Callable[[Tensor], Tensor]
"""Images (n, c, *space) to outputs, such as logits (n, k)."""


def functional(module: nn.Module, weights: Tensors | None = None) -> Network:
    """The module with `weights` in place of its own, as a function that does not change its buffers.

    Batch norm uses the statistics of the batch, but its running statistics stay those of the training images, with
    which the module is evaluated. (Miyato et al.'s code does so for virtual images, which have other statistics: Xie et
    al. 2020, arXiv 1911.09665.)
    """

    def f(images: Tensor) -> Tensor:
        buffers = {name: t.clone() for name, t in module.named_buffers()}
        return functional_call(module, buffers | (weights or {}), (images,))

    return f


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards each part has its mode again (a frozen encoder may differ)."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
