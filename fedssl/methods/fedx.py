"""FedX: distillation within a site and from the global model (Han et al. 2022, arXiv 2207.09158).

The loss of a batch has four terms: a contrastive and a relational loss between two views, and the same two between a
view and the global model's output for the other view. The global model is the model sent at the start of the visit. A
site sends nothing but weights.
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
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.two_views import two_views


@dataclass
class Unregistered:
    """Hides a network from the module that holds it: it is not sent, not saved and not trained."""

    network: nn.Module


class FedX(Method):
    """L = L_c + L_r + L_c against the global model + L_r against the global model.

    Our reading, where the paper leaves a choice: the images of the batch are the random instances to which relations
    are measured, so no further batch is read; the global terms use the prediction from the local projection, and both
    orders of the views; the global model is in evaluation mode.
    """

    share = ("encoder.", "head.", "predictor.")
    scratch = ("global_model",)

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        temperature: float = 0.2, relation_temperature: float = 0.2, hidden_dim: int = 256, projection_dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            temperature: tau of the contrastive terms.
            relation_temperature: tau of the relational terms.
            hidden_dim: Width of the hidden layer of projection head and predictor.
            projection_dim: Width of a projection.
        """
        super().__init__(encoder, views, optimizer)
        self.head = SimCLRProjectionHead(encoder.width, hidden_dim, projection_dim)
        self.predictor = SimSiamPredictionHead(projection_dim, hidden_dim, projection_dim)
        self.criterion = NTXentLoss(temperature)
        self.relation_temperature = relation_temperature
        self.global_model = Unregistered(nn.Identity())
        """Of a visit; between visits there is none."""

    def on_visit_start(self, site: str, turn: Round) -> None:
        """Copies the model that the server sent as the frozen global model of this visit; it is never stored."""
        self.global_model.network = _frozen_copy(self.encoder, self.head)

    def on_train_start(self) -> None:
        """Lightning moves only registered submodules to the device."""
        self.global_model.network.to(self.device)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        both = torch.cat(two_views(views))
        z = self.head(self.encoder(both))
        p = self.predictor(z)
        with torch.no_grad():
            g = self.global_model.network(both)
        # In bf16, cosines divided by tau would have errors of several hundredths.
        with torch.autocast(z.device.type, enabled=False):
            (z1, z2), (p1, p2), (g1, g2) = (x.float().chunk(2) for x in (z, p, g))
            local = self.distillation_loss(z1, z2, z1)
            return local + (self.distillation_loss(p1, g2, g1) + self.distillation_loss(p2, g1, g2)) / 2

    def distillation_loss(
        self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], references: Float[Tensor, "n d"]
    ) -> Float[Tensor, ""]:
        """Contrastive plus relational loss of two embeddings of the same images; relations are to `references`."""
        contrastive: Tensor = self.criterion(a, b)
        tau = self.relation_temperature
        return contrastive + js_divergence(log_relations(a, references, tau), log_relations(b, references, tau))


def log_relations(
    embeddings: Float[Tensor, "n d"], references: Float[Tensor, "n d"], temperature: float
) -> Float[Tensor, "n m"]:
    """log r, r_i = softmax over j != i of cos(embedding i, reference j) / tau: relations of image i to the others."""
    n = len(embeddings)
    cosines = normalize(embeddings, dim=1) @ normalize(references, dim=1).T
    # Removes the diagonal: after the first number, every (n + 1)-th number is on it.
    off_diagonal = cosines.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)
    return log_softmax(off_diagonal / temperature, dim=1)


def js_divergence(log_a: Float[Tensor, "n m"], log_b: Float[Tensor, "n m"]) -> Float[Tensor, ""]:
    """Mean Jensen-Shannon divergence of rows of log probabilities, in [0, log 2]."""
    log_mean = torch.logaddexp(log_a, log_b) - torch.log(log_a.new_tensor(2.0))
    terms = log_a.exp() * (log_a - log_mean) + log_b.exp() * (log_b - log_mean)
    return terms.sum(1).mean() / 2


def _frozen_copy(encoder: nn.Module, head: nn.Module) -> nn.Module:
    return copy.deepcopy(nn.Sequential(encoder, head)).eval().requires_grad_(False)
