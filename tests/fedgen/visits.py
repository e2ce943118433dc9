"""Visits of a small classifier at one hospital, with local callbacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.models.base import Encoder
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier

TURN = Round(0, 1, seed=0)


def hospital(count: int = 12, sign: float = 1.0) -> Site:
    """Images of 8 x 8 pixels within (-0.5, 0.5), of three classes."""
    pixels = (sign * np.random.default_rng(0).uniform(-0.5, 0.5, (count, 1, 8, 8))).astype(np.float16)
    labels = torch.arange(count) % 3
    return Site("a", Images("a", pixels, np.full(count, "train"), labels, np.arange(count)))


def classifier(encoder: Encoder, rate: float = 0.1, **more: Any) -> Classifier:
    torch.manual_seed(1)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.3)
    return Classifier(encoder, 3, optimizer=lambda p: SGD(p, lr=rate), **{"augment": None, **more})


def visited(
    module: Classifier, *callbacks: Any, site: Site | None = None, **visit: Any
) -> tuple[Tensors, dict[str, float]]:
    """The module's state after one visit under FedAvg, and its metrics."""
    settings = {"batch_size": 4, "accelerator": "cpu", "max_epochs": 2, **visit}
    local = LocalTrainer(module, module.share, Visit(callbacks=callbacks, **settings))
    algorithm = FedAvg()
    metrics = algorithm.visit(site or hospital(), algorithm.start(local), local, TURN).metrics
    return {k: t.clone() for k, t in module.state_dict().items()}, metrics


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())
