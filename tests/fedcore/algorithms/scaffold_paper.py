"""SCAFFOLD as in the paper, written as loops."""

from __future__ import annotations

import torch
from torch import Tensor

from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.training.visit import Visit
from tests.fedcore.toys import Toy, batches, hospitals, plain

VISIT = Visit(batch_size=4, max_epochs=2, accelerator="cpu")
RATE = 0.1


def trainable(module: Toy) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Paper:
    """Algorithm 1 with option II, in float64; buffers averaged."""

    def __init__(self, names: str, eta: float, visit: Visit = VISIT):
        self.data, self.eta, self.visit = hospitals(names), eta, visit
        self.weights = {k: t for k, t in Toy(plain).double().state_dict().items() if k != "seen"}
        self.c = {k: torch.zeros_like(t) for k, t in trainable(Toy(plain).double()).items()}
        self.own = {name: dict(self.c) for name in names}

    def run_round(self, asked: str, turn: Round) -> None:
        moves, changes, models = [], [], []
        for name in asked:
            y, change = self.train(name, turn)
            models.append(y)
            moves.append({k: y[k] - self.weights[k] for k in self.c})
            changes.append(change)
        for k in self.weights:
            if k in self.c:
                self.weights[k] = self.weights[k] + self.eta * sum(m[k] for m in moves) / len(asked)
            else:
                mean = sum(m[k].double() for m in models) / len(asked)
                self.weights[k] = mean if self.weights[k].is_floating_point() else mean.round().long()
        for k in self.c:
            share = len(asked) / len(self.data)
            self.c[k] = self.c[k] + share * sum(d[k] for d in changes) / len(asked)

    def train(self, name: str, turn: Round) -> tuple[Tensors, Tensors]:
        module, steps = Toy(plain).double(), 0
        module.load_state_dict(self.weights, strict=False)
        for batch in batches(self.data[name], self.visit, turn):
            module.zero_grad()
            module.loss(batch.double()).backward()
            with torch.no_grad():
                for k, p in module.named_parameters():
                    p -= RATE * (p.grad - self.own[name][k] + self.c[k])
            steps += 1
        y = {k: t.clone() for k, t in module.state_dict().items()}
        after = {k: self.own[name][k] - self.c[k] + (self.weights[k] - y[k]) / (steps * RATE) for k in self.c}
        change = {k: after[k] - self.own[name][k] for k in self.c}
        self.own[name] = after
        return y, change
