"""FCL: shared feature banks with structural matching (Wu et al. 2021, arXiv 2204.10983; 2202.07470).

Slices at the same height of a body look alike across patients. So a volume is divided into ordered position bins
(the paper: partitions), every feature in a bank carries its bin, and a query is attracted by all features of its own
bin, of its own site and of other sites, and repelled by all others. In a recipe: slices of volumes (`data.slices`) or
of a manifest with the column `position`, and the exchange `fedssl.bank.vectors.ShareVectors`.
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
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedssl.bank.feature_bank import UNKNOWN_BIN, FeatureBank, site_id
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.momentum_encoder import key_features, momentum_copy, query_features
from fedssl.methods.two_views import two_views

_MAX_BINS = 2**15 - 1  # the exchange sends a bin as a 16-bit integer


class FCL(Method):
    """L = L_local + L_remote: contrasts with the site's own bank, and with that and the other sites' features together.

    Our reading, where the paper leaves a choice: Q' of L_remote is the own bank and the features that the exchange
    sampled for this visit; features of the query's own volume are positives like any other of its bin, since a bank
    does not store patients; without positions nothing matches, and L_remote is MoCo's loss.
    """

    share = ("encoder.", "head.", "momentum_encoder.", "momentum_head.")
    scratch = ("key_origin",)
    targets: ClassVar[Target] = "positions"

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        position_bins: int = 4, temperature: float = 0.2, momentum: float = 0.99,
        bank_size: int = 4096, remote_bank_size: int = 4096, hidden_dim: int = 256, projection_dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            position_bins: S, the ordered parts of equal length that a volume is divided into.
            temperature: tau.
            momentum: m of the momentum encoder.
            bank_size: Capacity of the feature bank (memory bank, queue) of the site's own keys.
            remote_bank_size: Capacity of the feature bank that the exchange fills with features of other sites.
            hidden_dim: Width of the projection head's hidden layer.
            projection_dim: Width of a projection, and so of the features in the banks.
        """
        super().__init__(encoder, views, optimizer)
        if not 1 <= position_bins <= _MAX_BINS:
            raise ValueError(f"position_bins must lie in 1..{_MAX_BINS}, got {position_bins}")
        self.head = MoCoProjectionHead(encoder.width, hidden_dim, projection_dim)
        self.momentum_encoder, self.momentum_head = momentum_copy(encoder), momentum_copy(self.head)
        self.bank, self.remote_bank = (
            FeatureBank(bank_size, projection_dim),
            FeatureBank(remote_bank_size, projection_dim),
        )
        self.position_bins, self.temperature, self.momentum = position_bins, temperature, momentum
        self.key_origin = (0, 0)

    def on_visit_start(self, site: str, turn: Round) -> None:
        """Stores the site and the round, with which new keys are pushed to the bank."""
        self.key_origin = (site_id(site), turn.index)

    def training_step(self, batch: Any, _: int) -> Tensor:
        images, positions = batch
        return self.loss(self.views(images), positions)

    def loss(
        self, views: list[Float[Tensor, "n c *space"]], positions: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        a, b = two_views(views, min_images=1)
        query, key = query_features(self, a), key_features(self, b)
        bins = (
            to_position_bins(positions, self.position_bins)
            if positions is not None
            else torch.full((len(query),), UNKNOWN_BIN, device=query.device)
        )
        entries = torch.cat([self.bank.entries(), self.remote_bank.entries()])
        entry_bins = torch.cat([self.bank.entry_bins(), self.remote_bank.entry_bins()])
        own, own_bins = entries[: len(self.bank)], entry_bins[: len(self.bank)]
        # In bf16, cosines divided by tau would have errors of several hundredths.
        with torch.autocast(query.device.type, enabled=False):
            local = multi_positive_info_nce(query, key, bins, own, own_bins, self.temperature)
            remote = multi_positive_info_nce(query, key, bins, entries, entry_bins, self.temperature)
        self.bank.push(key, *self.key_origin, bins)
        return local + remote


def to_position_bins(positions: Float[Tensor, " n"], count: int) -> Int[Tensor, " n"]:
    """The bin of each position in [0, 1], out of `count` ordered bins of equal length, from 0."""
    return (positions * count).long().clamp(max=count - 1)


def multi_positive_info_nce(
    query: Float[Tensor, "n d"], key: Float[Tensor, "n d"], bins: Int[Tensor, " n"],
    entries: Float[Tensor, "k d"], entry_bins: Int[Tensor, " k"], temperature: float,
) -> Float[Tensor, ""]:  # fmt: skip
    """Mean over the positives of -log softmax of q.k+ among q's own key and all entries (rows of unit length).

    Positives are the own key and the entries of q's position bin; without such entries it is MoCo's `info_nce`. The
    form is that of Khosla et al. 2020 (arXiv 2004.11362, L_out). If there are no entries, the keys of the batch
    replace them.
    """
    if len(entries):
        own = torch.ones(len(query), 1, dtype=torch.bool, device=query.device)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ entries.T], dim=1)
        positive = torch.cat([own, _same_bin(bins, entry_bins)], dim=1)
    else:
        own = torch.eye(len(query), dtype=torch.bool, device=query.device)
        logits, positive = query @ key.T, _same_bin(bins, bins) | own
    log_probs = log_softmax(logits / temperature, dim=1)
    return -((log_probs * positive).sum(1) / positive.sum(1)).mean()


def _same_bin(bins: Int[Tensor, " n"], others: Int[Tensor, " k"]) -> Bool[Tensor, "n k"]:
    """Which pairs have the same bin; an unknown bin equals no bin."""
    return (bins[:, None] == others) & (others != UNKNOWN_BIN)
