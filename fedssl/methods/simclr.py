"""SimCLR: two views of an image attract, all others repel (Chen et al. 2020, arXiv 2002.05709)."""

from __future__ import annotations

from jaxtyping import Float
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import Tensor, autocast, cat
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.models.base import Encoder
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.pair import pair


class SimCLR(Method):
    """With FedAvg this is FedSimCLR, the baseline of the federated contrastive papers."""

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        temperature: float = 0.2, hidden: int = 256, dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image.
            optimizer: Builds the optimizer of a visit.
            temperature: tau, 0.1 to 0.5 in the papers.
            hidden: Width of the projection head's hidden layer.
            dim: Width of a projection.
        """
        super().__init__(encoder, views, optimizer)
        self.head = SimCLRProjectionHead(encoder.width, hidden, dim)
        self.criterion = NTXentLoss(temperature)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        z = self.head(self.encoder(cat(pair(views, least=1))))
        # Cosines over tau in bf16 would be off by several hundredths.
        with autocast(z.device.type, enabled=False):
            loss: Tensor = self.criterion(*z.float().chunk(2))
        return loss
