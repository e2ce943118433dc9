"""SimCLR: two views of an image attract each other, all others repel (Chen et al. 2020, arXiv 2002.05709)."""

from __future__ import annotations

from jaxtyping import Float
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, autocast, cat
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.models.base import Encoder
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.two_views import two_views


class SimCLR(Method):
    """With FedAvg this is FedSimCLR, the baseline of the federated contrastive papers."""

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        temperature: float = 0.2, hidden_dim: int = 256, projection_dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            temperature: tau, 0.1 to 0.5 in the papers.
            hidden_dim: Width of the projection head's hidden layer.
            projection_dim: Width of a projection.
        """
        super().__init__(encoder, views, optimizer)
        self.head = SimCLRProjectionHead(encoder.width, hidden_dim, projection_dim)
        self.criterion = NTXentLoss(temperature)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        z = self.head(self.encoder(cat(two_views(views, min_images=1))))
        # In bf16, cosines divided by tau would have errors of several hundredths.
        with autocast(z.device.type, enabled=False):
            loss: Tensor = self.criterion(*z.float().chunk(2))
        return loss
