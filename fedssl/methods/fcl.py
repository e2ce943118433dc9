"""FCL: shared feature banks with structural matching (Wu et al. 2021, arXiv 2204.10983; 2202.07470).

Slices from the same height of a body look alike, whosever body it is. So a volume is divided into ordered
parts, every entry of a bank knows its part, and a query is drawn to all entries of its own part, its own
site's and other sites', while all others repel. In a recipe: slices of volumes (`data.slices`) or of a
manifest with the column `position`, and the exchange `fedssl.bank.vectors.ShareVectors`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor
from torch.nn.functional import log_softmax
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.data.dataset import Target
from fedcore.models.base import Encoder
from fedcore.site.site import Round
from fedssl.bank.bank import UNKNOWN, FeatureBank, site_number
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.moco import keys, queries, slow_copy
from fedssl.methods.pair import pair

_MOST_PARTS = 2**15 - 1  # what an exchange's 16 bits hold


class FCL(Method):
    """L = L_local + L_remote: against the site's own bank, and against that and the other sites' together.

    Our reading, where the paper leaves a choice: Q' of L_remote is the own bank and what the exchange drew for
    this visit; entries of the query's own volume are positives like any other of its part, since a bank does
    not know patients; without positions nothing matches, and L_remote is MoCo's loss.
    """

    share = ("encoder.", "head.", "momentum_encoder.", "momentum_head.")
    targets: ClassVar[Target] = "positions"

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        parts: int = 4, temperature: float = 0.2, momentum: float = 0.99, bank: int = 4096, remote: int = 4096,
        hidden: int = 256, dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image.
            optimizer: Builds the optimizer of a visit.
            parts: S, the ordered parts a volume is divided into.
            temperature: tau.
            momentum: m of the slow encoder.
            bank: Capacity of the site's own bank.
            remote: Capacity for features that come from elsewhere.
            hidden: Width of the projection head's hidden layer.
            dim: Width of a feature in the banks.
        """
        super().__init__(encoder, views, optimizer)
        if not 1 <= parts <= _MOST_PARTS:
            raise ValueError(f"parts must lie in 1..{_MOST_PARTS}, got {parts}")
        self.head = MoCoProjectionHead(encoder.width, hidden, dim)
        self.momentum_encoder, self.momentum_head = slow_copy(encoder), slow_copy(self.head)
        self.bank, self.remote = FeatureBank(bank, dim), FeatureBank(remote, dim)
        self.parts, self.temperature, self.momentum = parts, temperature, momentum
        self.stamp = (0, 0)

    def on_visit_start(self, site: str, turn: Round) -> None:
        """New entries of the bank are marked with this site and round."""
        self.stamp = (site_number(site), turn.index)

    def training_step(self, batch: Any, _: int) -> Tensor:
        images, positions = batch
        return self.loss(self.views(images), positions)

    def loss(
        self, views: list[Float[Tensor, "n c *space"]], positions: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        a, b = pair(views, least=1)
        query, key = queries(self, a), keys(self, b)
        part = (
            parts_of(positions, self.parts)
            if positions is not None
            else torch.full((len(query),), UNKNOWN, device=query.device)
        )
        known = torch.cat([self.bank.entries(), self.remote.entries()])
        known_part = torch.cat([self.bank.parts(), self.remote.parts()])
        own, own_part = known[: len(self.bank)], known_part[: len(self.bank)]
        # Cosines over tau in bf16 would be off by several hundredths.
        with torch.autocast(query.device.type, enabled=False):
            local = matched_nce(query, key, part, own, own_part, self.temperature)
            remote = matched_nce(query, key, part, known, known_part, self.temperature)
        self.bank.push(key, *self.stamp, part)
        return local + remote


def parts_of(positions: Float[Tensor, " n"], parts: int) -> Int[Tensor, " n"]:
    """Which of `parts` equal, ordered parts of a volume each position in [0, 1] lies in, from 0."""
    return (positions * parts).long().clamp(max=parts - 1)


def matched_nce(
    query: Float[Tensor, "n d"], key: Float[Tensor, "n d"], part: Int[Tensor, " n"],
    entries: Float[Tensor, "k d"], entry_part: Int[Tensor, " k"], temperature: float,
) -> Float[Tensor, ""]:  # fmt: skip
    """Mean over the positives of -log softmax of q.k+ among q's own key and all entries (rows of unit length).

    Positives are the own key and the entries of q's part; with none of these it is MoCo's `info_nce`. The
    shape is that of Khosla et al. 2020 (arXiv 2004.11362, L_out). With no entries the batch's keys stand in.
    """
    if len(entries):
        own = torch.ones(len(query), 1, dtype=torch.bool, device=query.device)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ entries.T], dim=1)
        positive = torch.cat([own, _same(part, entry_part)], dim=1)
    else:
        own = torch.eye(len(query), dtype=torch.bool, device=query.device)
        logits, positive = query @ key.T, _same(part, part) | own
    likely = log_softmax(logits / temperature, dim=1)
    return -((likely * positive).sum(1) / positive.sum(1)).mean()


def _same(part: Int[Tensor, " n"], other: Int[Tensor, " k"]) -> Bool[Tensor, "n k"]:
    """Where two are of one part; what is of no known part is like no other."""
    return (part[:, None] == other) & (other != UNKNOWN)
