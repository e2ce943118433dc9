"""FedEMA: the further a site is from the federation, the more of itself it keeps (Zhuang et al. 2022).

arXiv 2204.04385. In a recipe, with `method: fedssl.methods.byol.BYOL`::

    algorithm:
      class_path: fedssl.federation.fedema.FedEMA
      init_args: {tau: 0.7, algorithm: {class_path: fedcore.algorithms.fedavg.FedAvg}}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedcore.messages.message import Tensors
from fedssl.federation.personalised_start import Rejoin


@dataclass(frozen=True)
class FedEMA(Rejoin):
    """A site begins from mu * own + (1 - mu) * global with mu = min(lambda * divergence, 1).

    That holds for all that travels: encoder, head and predictor. lambda is each site's own, tau / divergence
    when it is first measured, so at its second visit a site keeps tau of itself; it stays in the site's
    memory. Our reading: it is measured when the site is visited again, and not at once at the server.

    The first visits set lambda, so they must be as long and at as high a rate as any later one. After a
    warm-up divergence only grows, mu stays at 1 and every site is alone: watch the metric `mixing`.
    """

    tau: float = 0.7
    """Part of itself that a site keeps at its second visit, >= 0; 0 is the wrapped algorithm."""

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise ValueError(f"tau must be >= 0, got {self.tau}")

    def mixing(self, divergence: float, notes: Tensors) -> tuple[float, Tensors]:
        if "lambda" not in notes:
            if not divergence:  # alone in the federation: both models are the same, and lambda would be infinite
                return 0.0, {}
            notes = {"lambda": torch.tensor(self.tau / divergence, dtype=torch.float64)}
        return min(float(notes["lambda"]) * divergence, 1.0), notes
