from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.errors import Refused
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.visit import Visit
from tests.fedcore.toys import Toy, images, local

TURN = Round(0, 2, 0)


class OutOfMemory(Toy):
    def loss(self, images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("Tried to allocate 80.00 GiB")


@pytest.mark.parametrize(
    ("precision", "advice"),
    [("32-true", r"visit\.batch_size 2 may fit, or visit\.precision bf16-mixed"), ("bf16-mixed", r".* 2 may fit$")],
)
def test_out_of_gpu_memory_is_refused_with_a_smaller_batch_as_advice(
    precision: Any, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 24 * 2**30))
    trainer = local(Visit(batch_size=4, accelerator="cpu", precision=precision), OutOfMemory())
    told = r"out of GPU memory \(23\.0 of 24\.0 GiB in use\) at visit\.batch_size 4; " + advice
    with pytest.raises(Refused, match=told):
        trainer.fit(Site("a", images()), TURN, {})


def test_a_single_image_for_batch_norm_is_refused_with_advice() -> None:
    with pytest.raises(Refused, match=r"more than one value per channel.*add images to the site, raise data\.size"):
        local().fit(Site("a", images(count=1)), TURN, {})


def test_out_of_gpu_memory_during_evaluation_is_refused() -> None:
    with pytest.raises(Refused, match=r"out of GPU memory .* during evaluation"), local().measuring():
        raise torch.OutOfMemoryError("Tried to allocate 80.00 GiB")


def test_a_refused_visit_leaves_no_trainer() -> None:
    trainer = local(module=OutOfMemory())
    with pytest.raises(Refused):
        trainer.fit(Site("a", images()), TURN, {})
    with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
        _ = trainer.module.trainer
