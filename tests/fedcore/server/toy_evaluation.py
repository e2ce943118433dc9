"""An evaluation that looks at everything."""

from __future__ import annotations

import torch

from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Weights
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer


class Curious:
    """An evaluation that looks at everything and leaves a mess."""

    metric_names = ("weights",)

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        local.load(down.tensors)
        mean = float(local.module.layer.weight.detach().mean())
        local.module.seen.fill_(1e9)
        local.module.layer.weight.data.zero_()
        torch.rand(1)
        return Contribution(site.name, Empty(), site.size, {"weights": mean})
