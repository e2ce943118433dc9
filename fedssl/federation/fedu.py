"""FedU: a site whose model diverges from the global one keeps its own predictor (Zhuang et al. 2021).

arXiv 2108.06492. In a recipe, with `method: fedssl.methods.byol.BYOL`::

    algorithm:
      class_path: fedssl.federation.fedu.FedU
      init_args: {mu: 0.4, algorithm: {class_path: fedcore.algorithms.fedavg.FedAvg}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedcore.messages.tensors import Tensors
from fedssl.federation.personalised_start import ENCODER, PersonalisedStart


@dataclass(frozen=True)
class FedU(PersonalisedStart):
    """A site starts from the global encoder, and from the global predictor if divergence < mu, else from its own.

    Our reading: the projection head is treated as the predictor, which predicts its outputs; and the divergence is
    that of `fedssl.federation.personalised_start`.
    """

    always_global: ClassVar[tuple[str, ...]] = (ENCODER,)

    mu: float = 0.4
    """Threshold, >= 0, the paper's for ResNet-18. It has the scale of the weights: look at the metric `divergence`."""

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ValueError(f"mu must be >= 0, got {self.mu}")

    def own_weight(self, divergence: float, site_state: Tensors) -> tuple[float, Tensors]:
        return (0.0 if divergence < self.mu else 1.0), site_state
