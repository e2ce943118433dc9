"""VICReg: views agree, features vary, and no two say the same (Bardes et al. 2021, arXiv 2105.04906)."""

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
from fedssl.methods.pair import pair


class VICReg(Method):
    """Collapse is ruled out by the loss itself: no negatives, no slow copy, no predictor.

    lightly's loss follows the authors' code, for which the paper's weights 25, 25, 1 are: the squared
    distance is a mean over dimensions and not the sum of eq. 5, and the variance term is the mean of both
    views and not the sum of eq. 6. Covariances are of one batch, so batches below about 32 are poor.
    """

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0,
        hidden: int = 512, dim: int = 512,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            invariance: lambda, weight of the distance of two views of an image.
            variance: mu, weight of what a dimension's standard deviation lacks to 1.
            covariance: nu, weight of the squared covariances of different dimensions.
            hidden: Width of the expander's hidden layers; the paper's 8192 is for ResNet-50.
            dim: Width of an embedding; the paper's is 8192.
        """
        if min(invariance, variance, covariance) < 0:
            raise ValueError(
                f"invariance, variance and covariance must be >= 0, got {invariance}, {variance} and {covariance}"
            )
        super().__init__(encoder, views, optimizer)
        self.head = VICRegProjectionHead(encoder.width, hidden, dim)
        self.criterion = VICRegLoss(invariance, variance, covariance)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        a, b = (self.head(self.encoder(view)) for view in pair(views))
        # Covariances are sums of products over a batch: bf16 would leave two digits of them.
        with torch.autocast(a.device.type, enabled=False):
            loss: Tensor = self.criterion(a.float(), b.float())
        return loss
