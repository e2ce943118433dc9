from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD

from fedcore.errors import InputError, Refused
from fedcore.messages.round import Round
from fedcore.site.site import Site
from tests.fedcore.toys import Toy, images, local

TURN = Round(0, 2, 0)


@pytest.mark.parametrize("pack", [lambda o, s: ([o], [s]), lambda o, s: {"optimizer": o, "lr_scheduler": s}])
def test_a_schedule_that_would_start_again_in_each_visit_is_an_error(pack: Any) -> None:
    class Scheduled(Toy):
        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), lr=0.1)
            return pack(optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))

    trainer = local(module=Scheduled())
    with pytest.raises(InputError, match=r"Scheduled.configure_optimizers returns a learning rate schedule.*Cosine"):
        trainer.optimizers()
    with pytest.raises(Refused, match="a learning rate schedule, which would start again in each visit"):
        trainer.fit(Site("a", images()), TURN, {})


def test_optimizers_are_checked_before_a_visit() -> None:
    (made,) = local().optimizers() or []
    assert isinstance(made, SGD)
    with pytest.raises(InputError, match="the optimizer of Toy cannot be built: Invalid learning rate"):
        local(module=Toy(lambda p: SGD(p, lr=-1.0))).optimizers()

    class Late(Toy):
        def configure_optimizers(self) -> SGD:
            return SGD(self.parameters(), lr=0.1 / self.trainer.max_epochs)

    assert local(module=Late()).optimizers() is None
