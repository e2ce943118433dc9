"""L-DAWA: each layer of a site is weighted by its cosine to the server's layer (Rehman et al. 2023).

arXiv 2307.07393. In a recipe: FedAvg with `aggregator: fedssl.federation.ldawa.LDAWA`.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedcore.aggregation.mean import Mean
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.tensors import Tensors


@dataclass(frozen=True)
class LDAWA:
    """Scales each layer of each site's model by its cosine to the server's layer, then averages.

    w_server^l <- sum_k n_k cos(w_k^l, w_server^l) w_k^l / sum_k n_k, in one pass and two models of memory.
    As in the paper, the mean is shorter than the weights of a site whose layer changed direction, even with one site
    alone. Our reading:

    - sites are weighted by their number of images;
    - a layer is all parameters of one module, weight and bias together: a norm's bias starts at 0, alone has no
      cosine then, and would always stay 0;
    - a negative cosine counts as 0, because no site trained the negated layer;
    - a layer that is 0 at the server has no direction, and is averaged without scaling;
    - running statistics and counters are averaged without scaling: a variance times a cosine is no variance.
    """

    weight: str = "examples"
    """Weight of a site, as in fedcore.aggregation.mean.Mean: `examples`, `equal`, or the name of a metric."""

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors:
        scaled = (dataclasses.replace(c, message=Weights(_scaled(c.message.tensors, current))) for c in contributions)
        return Mean(self.weight).combine(scaled, current)


def _scaled(sent: Tensors, current: Tensors) -> Tensors:
    """A site's tensors, each parameter times the factor of its layer."""
    result = dict(sent)
    for names in layers(sent):
        factor = cosine([sent[n] for n in names], [current[n] for n in names])
        result |= {n: sent[n] * factor for n in names}
    return result


def layers(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of the parameters, grouped by module: floating-point tensors that are no running statistics."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, t in tensors.items():
        module, _, leaf = name.rpartition(".")
        if t.is_floating_point() and not leaf.startswith("running_"):
            found[module].append(name)
    return list(found.values())


def cosine(a: list[Tensor], b: list[Tensor]) -> float:
    """Cosine of two layers in [0, 1], negative cosines as 0; 1 if `b` is 0.

    In float64, so that the cosine of a layer to itself is exactly 1 in float32.
    """
    x, y = (torch.cat([t.double().flatten() for t in layer]) for layer in (a, b))
    if not y.any():
        return 1.0
    return float(torch.cosine_similarity(x, y, dim=0).clamp(0, 1))
