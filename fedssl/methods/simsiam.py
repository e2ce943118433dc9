"""SimSiam: a Siamese network with a predictor and a stop-gradient (Chen & He 2020, arXiv 2011.10566)."""

from __future__ import annotations

from jaxtyping import Float
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.models.base import Encoder
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.two_views import two_views


class SimSiam(Method):
    """BYOL without a momentum encoder: the least memory of the methods without negatives; all state is sent.

    The paper keeps the predictor's learning rate constant; here a schedule changes that of the whole network.
    Watch the probe's `feature_std`: without negatives the features can collapse.
    """

    share = ("encoder.", "head.", "predictor.")

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        hidden_dim: int = 512, projection_dim: int = 512, predictor_hidden_dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            hidden_dim: Width of the projection head's hidden layers; the paper's 2048 is for ResNet-50.
            projection_dim: Width of a projection; the paper's is 2048.
            predictor_hidden_dim: Width of the predictor's hidden layer, in the paper a quarter of `projection_dim`.
        """
        super().__init__(encoder, views, optimizer)
        self.head = SimSiamProjectionHead(encoder.width, hidden_dim, projection_dim)
        self.predictor = SimSiamPredictionHead(projection_dim, predictor_hidden_dim, projection_dim)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        """The mean over both directions of -cos(p, z') (eq. 4 of the paper), in [-1, 1]."""
        a, b = (self.head(self.encoder(view)) for view in two_views(views))
        loss: Tensor = (self._negative_cosine(a, b) + self._negative_cosine(b, a)) / 2
        return loss

    def _negative_cosine(self, online: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
        negative: Tensor = self.criterion(self.predictor(online).float(), target.detach().float())
        return negative
