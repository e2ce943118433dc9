from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from fedcore.errors import Refused
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.optimizer_state import load_state, state_of
from fedcore.training.visit import Visit
from tests.fedcore.federating import same
from tests.fedcore.toys import Toy, images, local


class Averaging(SGD):
    """As schedule-free optimizers do: a step counter and a sum of weights in its group, a count at each parameter."""

    def __init__(self, params: Iterable[nn.Parameter]):
        super().__init__(params, lr=0.1)
        for group in self.param_groups:
            group |= {"k": 0, "weight_sum": 0.0, "training": False}

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            group["k"], group["training"] = group["k"] + 1, True
            group["weight_sum"] += 1 / group["k"]
            for p in group["params"]:
                state = self.state[p]
                state["seen"] = state.get("seen", 0) + 1
                state["z"] = state.get("z", p.detach().clone()).lerp(p.detach(), 1 / group["weight_sum"])
                state["unused"] = None
                p.grad.mul_(1 / state["seen"])
        super().step()
        return loss


class Historian(SGD):
    def step(self, closure: Any = None) -> Any:
        self.state[self.param_groups[0]["params"][0]]["losses"] = [1.0]
        return super().step(closure)


def steps(module: nn.Module, optimizer: Optimizer, count: int) -> None:
    for at in range(count):
        optimizer.zero_grad()
        (module(torch.full((2, 3), at + 1.0)) ** 2).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [Averaging, lambda p: Adam(p, lr=0.1)], ids=["averaging", "adam"])
def test_a_restored_optimizer_equals_one_that_never_stopped(kind: Callable[..., Optimizer]) -> None:
    whole, parted = nn.Linear(3, 2), nn.Linear(3, 2)
    parted.load_state_dict(whole.state_dict())
    one, first = kind(whole.parameters()), kind(parted.parameters())
    made = [{k: v for k, v in group.items() if k != "params"} for group in first.param_groups]
    for count in (3, 2):
        steps(whole, one, count)
    steps(parted, first, 3)
    kept = state_of(first, made)
    second = kind(parted.parameters())
    load_state(second, kept)
    steps(parted, second, 2)
    assert same(parted.state_dict(), whole.state_dict())
    for group, other in zip(second.param_groups, one.param_groups, strict=True):
        assert {k: (v, type(v)) for k, v in group.items() if k != "params"} == {
            k: (v, type(v)) for k, v in other.items() if k != "params"
        }


def test_a_visit_stores_the_numbers_of_groups_that_the_optimizer_changed() -> None:
    trainer = local(Visit(batch_size=4, accelerator="cpu", keep_optimizer=True), Toy(Averaging))
    site = Site("a", images())
    for index in range(2):
        with trainer.at(site):
            trainer.fit(site, Round(index, 2, 0), {})
        groups = {k: t for k, t in site.memory.items() if k.startswith("optimizer/0/group/")}
        assert {k.rpartition("/")[2]: t.item() for k, t in groups.items()} == {
            "k": 3 * (index + 1),
            "weight_sum": pytest.approx(sum(1 / n for n in range(1, 3 * (index + 1) + 1))),
            "training": True,
        }


def test_state_that_cannot_be_stored_is_refused() -> None:
    trainer = local(Visit(accelerator="cpu", keep_optimizer=True), Toy(lambda p: Historian(p, lr=0.1)))
    with pytest.raises(Refused, match=r"Historian has 'losses', a list; set it to false"):
        trainer.fit(Site("a", images()), Round(0, 1, 0), {})
