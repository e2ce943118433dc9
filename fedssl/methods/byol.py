"""BYOL: a network predicts the target network's projection of another view (Grill et al. 2020, arXiv 2006.07733)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.momentum_encoder import momentum_copy
from fedssl.methods.two_views import two_views


class BYOL(Method):
    """With FedAvg this is FedBYOL, on which FedU and FedEMA build (Zhuang et al. 2021, 2022).

    The online network (encoder, head and predictor) is sent and averaged. The target network, the moving average of
    encoder and head, stays at its site. There are no negatives, so small batches do little harm.
    """

    share = ("encoder.", "head.", "predictor.")

    target_initialised: Tensor

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        momentum: float = 0.99, hidden_dim: int = 512, projection_dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            momentum: tau of the target network, in [0, 1]; the paper's 0.996 is for visits of thousands of steps.
            hidden_dim: Width of the hidden layers of head and predictor; the paper's 4096 is for ResNet-50.
            projection_dim: Width of a projection; the paper's is 256.
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        super().__init__(encoder, views, optimizer)
        self.head = BYOLProjectionHead(encoder.width, hidden_dim, projection_dim)
        self.predictor = BYOLPredictionHead(projection_dim, hidden_dim, projection_dim)
        self.target_encoder, self.target_head = momentum_copy(encoder), momentum_copy(self.head)
        self.register_buffer("target_initialised", torch.tensor(False))
        self.criterion, self.momentum = NegativeCosineSimilarity(), momentum

    def on_visit_start(self, site: str, turn: Round) -> None:
        """At a site's first visit the target network becomes a copy of the network that was sent.

        Our reading: in the papers all sites start together. Otherwise a site that joins late would predict the
        features of the untrained encoder.
        """
        if not self.target_initialised:
            self.target_encoder.load_state_dict(self.encoder.state_dict())
            self.target_head.load_state_dict(self.head.state_dict())
            self.target_initialised.fill_(True)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        """The sum over both directions of |q - z'|^2 of unit vectors (eq. 2 of the paper), in [0, 8]."""
        a, b = two_views(views)
        # The paper updates the target after a step; before the next step is the same.
        update_momentum(self.encoder, self.target_encoder, self.momentum)
        update_momentum(self.head, self.target_head, self.momentum)
        return self._squared_distance(a, b) + self._squared_distance(b, a)

    def _squared_distance(
        self, online_view: Float[Tensor, "n c *space"], target_view: Float[Tensor, "n c *space"]
    ) -> Float[Tensor, ""]:
        prediction = self.predictor(self.head(self.encoder(online_view)))
        with torch.no_grad():
            target = self.target_head(self.target_encoder(target_view))
        distance: Tensor = 2 + 2 * self.criterion(prediction.float(), target.float())
        return distance
