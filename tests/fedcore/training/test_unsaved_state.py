from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.round import Round
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.unsaved_state import UnsavedState
from fedcore.training.visit import Visit
from tests.fedcore.federating import run, same
from tests.fedcore.toys import Hospitals, Toy, hospitals, local, plain

VISIT = Visit(batch_size=4, accelerator="cpu")


@dataclass
class Tracker:
    steps: int = 0


class Careless(Toy):
    """Has every kind of state that `state_dict()` leaves out, and changes it as `change` says."""

    history: ClassVar[list[float]] = []

    def __init__(self, change: Callable[[Any], None] = lambda module: None) -> None:
        super().__init__(plain)
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        self.center, self.rows, self.by_name, self.queue = torch.zeros(3), [], {}, deque[Tensor](maxlen=2)
        with seeded(0):
            self.epochs, self.tracker, self.networks = 0, Tracker(), [nn.Linear(2, 2)]
            self.contrast = NTXentLoss(memory_bank_size=(64, 3))
        self.change = change

    def loss(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.change(self)
        return super().loss(images)

    def made_late(self) -> None:
        self.late = torch.ones(2)


class Tolerant(Careless):
    scratch = (
        "hidden", "center", "rows", "by_name", "queue", "epochs", "tracker", "networks", "contrast", "history", "late",
        "more", "extra", "_forward_hooks",
    )  # fmt: skip


def push(contrast: NTXentLoss) -> None:
    with torch.enable_grad():
        rows = torch.rand(2, 3, requires_grad=True)
        contrast(rows, rows)


def hook(*_: Any) -> None:
    pass


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "buffer": (lambda m: m.hidden.add_(1), "Careless.hidden"),
    "buffer replaced": (lambda m: setattr(m, "hidden", m.hidden + 1), "Careless.hidden"),
    "buffer written through data": (lambda m: m.hidden.data.fill_(2), "Careless.hidden"),
    "tensor": (lambda m: m.center.add_(1), "Careless.center"),
    "tensor of another type": (lambda m: setattr(m, "center", m.center.double()), "Careless.center"),
    "list": (lambda m: m.rows.append(torch.ones(2)), "Careless.rows"),
    "dict": (lambda m: m.by_name.update(last=torch.ones(2)), "Careless.by_name"),
    "deque": (lambda m: m.queue.append(3), "Careless.queue"),
    "number": (lambda m: setattr(m, "epochs", m.epochs + 1), "Careless.epochs"),
    "object": (lambda m: setattr(m.tracker, "steps", m.tracker.steps + 1), "Careless.tracker"),
    "network that is no submodule": (lambda m: m.networks[0].weight.add_(1), "Careless.networks"),
    "list of the class": (lambda m: m.history.append(0.5), "Careless.history"),
    "new attribute": (lambda m: m.made_late(), "Careless.late"),
    "new buffer": (lambda m: m.register_buffer("more", torch.ones(2)), "an attribute that a visit adds to Careless"),
    "new submodule": (lambda m: m.add_module("extra", nn.Linear(2, 2)), "an attribute that a visit adds to Careless"),
    "replaced submodule": (lambda m: setattr(m, "contrast", NTXentLoss()), "Careless.contrast"),
    "buffer of a library": (lambda m: push(m.contrast), "MemoryBankModule.bank (contrast.memory_bank)"),
    "hook left behind": (lambda m: m.register_forward_hook(hook), "Careless._forward_hooks"),
}  # fmt: skip


def once(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """In the first batch of a visit."""
    return lambda module: change(module) if not module.trainer.global_step else None


def seen(module: Careless) -> list[Any]:
    """All that may change."""
    names = (name for name in ("late", "more", "extra") if hasattr(module, name))
    bank = module.contrast.memory_bank
    return [
        module.hidden.tolist(), module.center.tolist(), module.center.dtype, [*module.rows], {**module.by_name},
        [*module.queue], module.epochs, module.tracker.steps, module.networks[0].weight.tolist(), [*module.history],
        bank and bank.bank.tolist(), bank and bank.bank_ptr.tolist(), len(module._forward_hooks), *names,
    ]  # fmt: skip


def answers(trainer: LocalTrainer, names: str = "a") -> list[Contribution[Any] | Refusal]:
    of = Hospitals(hospitals("ab"), trainer)
    down = FedAvg().start(local(VISIT, Toy(plain)))
    return list(of.ask(FedAvg(), [(name, down) for name in names], Round(0, 1, 0)))


@pytest.mark.parametrize("kind", CHANGES)
def test_a_visit_that_changes_unsaved_state_is_refused_and_the_state_is_put_back(kind: str) -> None:
    change, named = CHANGES[kind]
    module = Careless(once(change))
    before = seen(module)
    (answer,) = answers(LocalTrainer(module, Toy.share, VISIT))
    assert isinstance(answer, Refusal)
    assert answer.reason.startswith(f"the visit changed {named}")
    assert 'scratch = ("name",)' in answer.reason
    assert seen(module) == before


@pytest.mark.parametrize("kind", CHANGES)
def test_scratch_may_change_and_is_put_back(kind: str) -> None:
    module = Tolerant(once(CHANGES[kind][0]))
    before = seen(module)
    (answer,) = answers(LocalTrainer(module, Toy.share, VISIT))
    assert isinstance(answer, Contribution), answer.reason
    assert seen(module) == before


@pytest.mark.parametrize("kind", CHANGES)
def test_what_a_visit_finds_does_not_depend_on_the_site_visited_before(kind: str) -> None:
    found = []

    def change(module: Any) -> None:
        if not module.trainer.global_step:
            found.append(seen(module))
            CHANGES[kind][0](module)

    sent = [answers(LocalTrainer(Tolerant(change), Toy.share, VISIT), names)[-1] for names in ("b", "ab")]
    assert found[0] == found[1] == found[2]
    assert same(sent[0].message.tensors, sent[1].message.tensors)


def test_a_visit_that_fails_leaves_no_state_either() -> None:
    def change(module: Any) -> None:
        module.center.add_(1)
        raise ValueError

    module = Careless(change)
    (answer,) = answers(LocalTrainer(module, Toy.share, VISIT))
    assert isinstance(answer, Refusal)
    assert answer.reason.startswith("ValueError")
    assert module.center.tolist() == [0.0] * 3


def test_a_refused_visit_changes_no_memory() -> None:
    of = Hospitals(hospitals("ab"), LocalTrainer(Careless(lambda m: m.hidden.add_(m.global_step)), Toy.share, VISIT))
    with pytest.raises(Exception, match=r"the visit changed Careless\.hidden"):
        run(FedAvg(), of, Rounds(1))
    assert not of.memories.held


def test_writing_an_equal_value_is_no_change() -> None:
    def change(module: Any) -> None:
        module.center, module.hidden = module.center.clone(), module.hidden + 0
        module.rows, module.by_name, module.tracker = [], {}, Tracker()
        module.epochs += 1
        module.epochs -= 1

    (answer,) = answers(LocalTrainer(Careless(change), Toy.share, VISIT))
    assert isinstance(answer, Contribution), answer.reason


def test_several_changes_are_one_refusal_which_shows_three() -> None:
    def change(module: Any) -> None:
        module.center, module.epochs, module.rows, module.hidden = torch.ones(3), 1, [1], torch.ones(3)

    (answer,) = answers(LocalTrainer(Careless(change), Toy.share, VISIT))
    assert isinstance(answer, Refusal)
    assert "and 1 more, which are in no state_dict()" in answer.reason


def test_an_attribute_whose_name_is_made_in_a_visit_is_not_quoted() -> None:
    module = Careless()
    unsaved = UnsavedState(module)
    with pytest.raises(Refused) as refused, unsaved.unchanged():
        setattr(module, f"pixel_{17}", 0.5)
    assert "pixel" not in str(refused.value)
    assert refused.value.details == "changed: Careless: pixel_17"
    with pytest.raises(Refused, match=r"Careless\.late"), unsaved.unchanged():
        module.made_late()  # its name is in the code of the recipe


def test_tensors_come_back_with_their_initial_numbers_each_time() -> None:
    module = Careless()
    module.center += 2
    unsaved = UnsavedState(module)
    for _ in range(2):
        module.hidden, module.center = torch.ones(5), module.center + 1
        unsaved.restore()
        assert (module.hidden.tolist(), module.center.tolist()) == ([0.0] * 3, [2.0] * 3)
        module.center += 9


def test_a_declaration_is_a_tuple() -> None:
    class Wrong(Toy):
        scratch = "cache"

    with pytest.raises(InputError, match=r'Wrong\.scratch must be a tuple of names, such as \("cache",\)'):
        local(VISIT, Wrong())
