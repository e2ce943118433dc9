"""VICReg: variance, invariance and covariance regularisation (Bardes et al. 2021, arXiv 2105.04906)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.models.base import Encoder
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.two_views import two_views


class VICReg(Method):
    """The loss itself prevents collapse: no negatives, no momentum encoder, no predictor.

    lightly's loss follows the authors' code, to which the paper's weights 25, 25, 1 belong: the squared
    distance is a mean over dimensions and not the sum of eq. 5, and the variance term is the mean of both
    views and not the sum of eq. 6. Covariances are of one batch, so batches below about 32 are poor.
    """

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        invariance_weight: float = 25.0, variance_weight: float = 25.0, covariance_weight: float = 1.0,
        hidden_dim: int = 512, projection_dim: int = 512,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            invariance_weight: lambda, weight of the squared distance of two views of an image.
            variance_weight: mu, weight of the hinge at 1 on each dimension's standard deviation.
            covariance_weight: nu, weight of the squared covariances of different dimensions.
            hidden_dim: Width of the expander's hidden layers; the paper's 8192 is for ResNet-50.
            projection_dim: Width of an embedding; the paper's is 8192.
        """
        if min(invariance_weight, variance_weight, covariance_weight) < 0:
            raise ValueError(
                "invariance_weight, variance_weight and covariance_weight must be >= 0, "
                f"got {invariance_weight}, {variance_weight} and {covariance_weight}"
            )
        super().__init__(encoder, views, optimizer)
        self.head = VICRegProjectionHead(encoder.width, hidden_dim, projection_dim)
        self.criterion = VICRegLoss(invariance_weight, variance_weight, covariance_weight)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        a, b = (self.head(self.encoder(view)) for view in two_views(views))
        # Covariances are sums of products over a batch: in bf16 only two of their digits would be right.
        with torch.autocast(a.device.type, enabled=False):
            loss: Tensor = self.criterion(a.float(), b.float())
        return loss
