"""What modules and callbacks usually do in a visit is no change of unsaved state."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import torch
from monai.transforms import RandFlip
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import Refused
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.round import Round
from fedcore.server.rounds import Rounds
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.unsaved_state import UnsavedState
from fedcore.training.visit import Visit
from tests.fedcore.federating import run
from tests.fedcore.toys import Hospitals, Toy, hospitals, images, local, plain
from tests.fedcore.training.test_unsaved_state import VISIT, answers


class Usual(Toy):
    """What libraries do with attributes of modules."""

    def __init__(self) -> None:
        super().__init__(plain)
        self.normed = weight_norm(nn.Linear(3, 3))
        self.rnn = nn.GRU(3, 3)
        self.flip, self.random = RandFlip(prob=0.5), torch.Generator()
        self.aliases = [self.layer.weight, self.seen]
        self.whole = self.loss

    @cached_property
    def table(self) -> Tensor:
        return torch.rand(3)

    def loss(self, images: Tensor) -> Tensor:
        rows = self.rnn(self.normed(self.layer(images.flatten(1))))[0]
        self.flip(images[0].detach())
        torch.rand(1, generator=self.random)
        self.whole = self.loss
        return super().loss(images) + 0.1 * (rows + self.table).square().mean()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_usual_modules_are_not_refused() -> None:
    module = Usual()
    trainer = LocalTrainer(module, ("layer.", "norm.", "normed."), VISIT)
    first, second = (answers_of(trainer, name) for name in "ab")
    assert isinstance(first, Contribution), first.reason
    assert isinstance(second, Contribution), second.reason
    assert "table" not in vars(module)


def answers_of(trainer: LocalTrainer, name: str) -> Contribution[Any] | Refusal:
    of = Hospitals(hospitals("ab"), trainer)
    (answer,) = of.ask(FedAvg(), [(name, FedAvg().start(trainer))], Round(0, 1, 0))
    return answer


@dataclass(frozen=True)
class Remembering:
    """Settings of a callback that keep what they see."""

    sites: list[str] = field(default_factory=list)

    def callback(self, anchor: Any, site: Site, turn: Round) -> Callback:
        self.sites.append(site.name)
        return Callback()


class Forgetting(Remembering):
    scratch = ("sites",)


def test_settings_of_callbacks_may_not_change_either() -> None:
    for settings, refused in ((Remembering(), True), (Forgetting(), False)):
        visit = Visit(batch_size=4, accelerator="cpu", callbacks=(settings,))
        (answer,) = answers(local(visit))
        assert isinstance(answer, Refusal) == refused
        assert not refused or "Remembering.sites" in answer.reason
        assert settings.sites == []


def test_a_copy_of_another_process_is_as_before_the_visit() -> None:
    module = Toy(plain)
    module.center = torch.zeros(3)
    unsaved = UnsavedState(module)
    module.center += 1
    again = pickle.loads(pickle.dumps(unsaved))  # noqa: S301 - made here
    assert again._made_of[0].center.tolist() == [0.0] * 3
    with pytest.raises(Refused, match=r"Toy\.center"), again.unchanged():
        again._made_of[0].center += 1


@pytest.mark.parametrize("count", [1, 3])
def test_tensors_of_the_state_dict_are_not_restored(count: int) -> None:
    trainer = local(VISIT, Toy(plain))
    transport = Hospitals({"a": images(count=4 * count)}, trainer)
    run(FedAvg(), transport, Rounds(count))
    assert float(transport.memories.get("a")["module/seen"]) == pytest.approx(
        count * float(images(count=4 * count).batch(range(4 * count)).sum()), rel=1e-3, abs=1e-2
    )
