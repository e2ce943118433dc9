"""FedEMA: the more a site's model diverges from the global one, the more of it the site keeps (Zhuang et al. 2022).

arXiv 2204.04385. In a recipe, with `method: fedssl.methods.byol.BYOL`::

    algorithm:
      class_path: fedssl.federation.fedema.FedEMA
      init_args: {tau: 0.7, algorithm: {class_path: fedcore.algorithms.fedavg.FedAvg}}
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedcore.messages.tensors import Tensors
from fedssl.federation.personalised_start import PersonalisedStart


@dataclass(frozen=True)
class FedEMA(PersonalisedStart):
    """A site starts from mu * own + (1 - mu) * global with mu = min(lambda * divergence, 1).

    That holds for all shared state: encoder, head and predictor. Each site has its own lambda, tau / divergence
    when it is first measured, so at its second visit mu is tau; lambda stays in the site's memory. Our reading: it is
    measured at the site's next visit, and not at once at the server.

    The first visits determine lambda, so they must be as long and have as high a learning rate as any later one. After
    a warm-up divergence only grows, mu stays at 1 and no site uses the global model: watch the metric `own_weight`.
    """

    tau: float = 0.7
    """mu of a site at its second visit, >= 0; with 0 it equals the wrapped algorithm."""

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise ValueError(f"tau must be >= 0, got {self.tau}")

    def own_weight(self, divergence: float, site_state: Tensors) -> tuple[float, Tensors]:
        if "lambda" not in site_state:
            if not divergence:  # the only site of the federation: both models are equal, and lambda would be infinite
                return 0.0, {}
            site_state = {"lambda": torch.tensor(self.tau / divergence, dtype=torch.float64)}
        return min(float(site_state["lambda"]) * divergence, 1.0), site_state
