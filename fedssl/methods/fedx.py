"""FedX: knowledge distilled within a site and from the global model (Han et al. 2022, arXiv 2207.09158).

Four terms a batch: a contrastive and a relational loss between two views, and the same two between a view
and what the global model, as it was when the round began, makes of the other view. Nothing but weights
leaves a site.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead, SimSiamPredictionHead
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.models.base import Encoder
from fedcore.site.site import Round
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.pair import pair


@dataclass
class Frozen:
    """A network that is no part of the module that holds it: it neither travels, nor is saved, nor learns."""

    network: nn.Module


class FedX(Method):
    """L = L_c + L_r + L_c against the global model + L_r against the global model.

    Our reading, where the paper leaves a choice: the images of the batch are the random ones that relations
    are measured to, so no further batch is read; the global terms compare a prediction from the local
    projection, and take both orders of the views; the global model is in evaluation mode.
    """

    share = ("encoder.", "head.", "predictor.")

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        temperature: float = 0.2, relation_temperature: float = 0.2, hidden: int = 256, dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            temperature: tau of the contrastive terms.
            relation_temperature: tau of the relational terms.
            hidden: Width of the projection head's hidden layer.
            dim: Width of a projection.
        """
        super().__init__(encoder, views, optimizer)
        self.head = SimCLRProjectionHead(encoder.width, hidden, dim)
        self.predictor = SimSiamPredictionHead(dim, hidden, dim)
        self.criterion = NTXentLoss(temperature)
        self.relation_temperature = relation_temperature
        self.teacher = Frozen(_frozen_copy(self.encoder, self.head))

    def on_visit_start(self, site: str, turn: Round) -> None:
        """What the server sent becomes the frozen global model of this visit; it is made anew, never stored."""
        self.teacher.network = _frozen_copy(self.encoder, self.head)

    def on_train_start(self) -> None:
        """Lightning moves only what is part of the module."""
        self.teacher.network.to(self.device)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        both = torch.cat(pair(views))
        z = self.head(self.encoder(both))
        p = self.predictor(z)
        with torch.no_grad():
            g = self.teacher.network(both)
        # Cosines over tau in bf16 would be off by several hundredths.
        with torch.autocast(z.device.type, enabled=False):
            (z1, z2), (p1, p2), (g1, g2) = (x.float().chunk(2) for x in (z, p, g))
            local = self.agreement(z1, z2, z1)
            return local + (self.agreement(p1, g2, g1) + self.agreement(p2, g1, g2)) / 2

    def agreement(
        self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], others: Float[Tensor, "n d"]
    ) -> Float[Tensor, ""]:
        """Contrastive and relational loss of two embeddings of the same images; relations are to `others`."""
        contrast: Tensor = self.criterion(a, b)
        tau = self.relation_temperature
        return contrast + js_divergence(relations(a, others, tau), relations(b, others, tau))


def relations(
    embeddings: Float[Tensor, "n d"], others: Float[Tensor, "n d"], temperature: float
) -> Float[Tensor, "n m"]:
    """log r, r_i = softmax over j != i of cos(embedding i, other j) / tau: how image i relates to the rest."""
    n = len(embeddings)
    cosines = normalize(embeddings, dim=1) @ normalize(others, dim=1).T
    # Without the diagonal: behind the first number each n + 1 end in one of it.
    rest = cosines.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)
    return log_softmax(rest / temperature, dim=1)


def js_divergence(log_a: Float[Tensor, "n m"], log_b: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    """Mean Jensen-Shannon divergence of rows of log probabilities, in [0, log 2]."""
    log_mean = torch.logaddexp(log_a, log_b) - torch.log(log_a.new_tensor(2.0))
    apart = log_a.exp() * (log_a - log_mean) + log_b.exp() * (log_b - log_mean)
    return apart.sum(1).mean() / 2


def _frozen_copy(encoder: nn.Module, head: nn.Module) -> nn.Module:
    return copy.deepcopy(nn.Sequential(encoder, head)).eval().requires_grad_(False)
