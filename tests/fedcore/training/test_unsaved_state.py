from __future__ import annotations

from collections import deque

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor

from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.round import Round
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.unsaved_state import UnsavedState
from fedcore.training.visit import Visit
from tests.fedcore.toys import Hospitals, Toy, hospitals, images, local, plain, run

VISIT = Visit(batch_size=4, accelerator="cpu")


class Careless(Toy):
    """Stores tensors outside of the state dict: in a non-persistent buffer, in attributes, in lightly's bank."""

    def __init__(self) -> None:
        super().__init__(plain)
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        self.center, self.rows, self.by_name, self.queue = torch.zeros(3), [], {}, deque[Tensor](maxlen=2)
        self.contrast = NTXentLoss(memory_bank_size=(64, 3))
        self.met: list[str] = []

    def loss(self, images: Tensor) -> Tensor:
        rows = self.norm(self.layer(images.flatten(1)))
        with torch.no_grad():
            if not self.met or self.met[-1] != "training":
                found = [self.center, self.hidden, *self.rows, *self.by_name.values(), *self.queue]
                found.append(getattr(self, "late", torch.zeros(1)))
                found.append(self.contrast.memory_bank.bank_ptr)
                self.met.append("something" if any(t.abs().sum() > 0 for t in found) else "nothing")
            self.met.append("training")
            self.center = 0.9 * self.center + 0.1 * rows.mean(0) + 1
            self.hidden += rows.sum(0) + 1
            self.rows.append(rows.detach() + 1)
            self.by_name["last"] = rows.detach() + 1
            self.queue.append(rows.detach() + 1)
            self.late = rows.detach() + 1
        return super().loss(images) + 0.0 * self.contrast(rows, rows)

    def on_visit_start(self, site: str, turn: object) -> None:
        self.met.append(site)


def test_only_what_travels_reaches_the_next_site() -> None:
    module = Careless()
    run(FedAvg(), Hospitals(hospitals("abc"), LocalTrainer(module, Toy.share, VISIT)), Rounds(2))
    found = [met for met in module.met if met != "training"]
    assert found == ["a", "nothing", "b", "nothing", "c", "nothing"] * 2


def test_training_does_not_depend_on_the_site_visited_before() -> None:
    states = []
    for names in ("b", "ab"):
        transport = Hospitals(hospitals("ab"), LocalTrainer(Careless(), Toy.share, VISIT))
        down = FedAvg().start(local(VISIT, Toy(plain)))
        answers = transport.ask(FedAvg(), [(name, down) for name in names], Round(0, 1, 0))
        states.append(list(answers)[-1].message.tensors)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_restoring_brings_back_initial_tensors_and_changes_nothing_else() -> None:
    module = Careless()
    module.center += 2
    unsaved, epochs = UnsavedState(module), 7
    module.epochs, module.grid = epochs, module.hidden
    module.hidden, module.center = torch.ones(5), module.center + 1
    unsaved.restore()
    assert (module.hidden.tolist(), module.center.tolist()) == ([0.0] * 3, [2.0] * 3)
    assert module.epochs == epochs
    assert not hasattr(module, "grid")
    module.center += 9  # a restored tensor is a copy
    unsaved.restore()
    assert module.center.tolist() == [2.0] * 3


@pytest.mark.parametrize("count", [1, 3])
def test_tensors_of_the_state_dict_are_not_restored(count: int) -> None:
    trainer = local(VISIT, Toy(plain))
    transport = Hospitals({"a": images(count=4 * count)}, trainer)
    run(FedAvg(), transport, Rounds(count))
    assert float(transport.memories.get("a")["module/seen"]) == pytest.approx(
        count * float(images(count=4 * count).batch(range(4 * count)).sum()), rel=1e-3, abs=1e-2
    )
