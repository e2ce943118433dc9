from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.errors import InputError
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.visit import Visit
from tests.fedcore.toys import Toy, images, local

TURN = Round(0, 2, 0)


def test_bf16_clips_the_gradients_of_a_fused_optimizer() -> None:
    """One step of SGD at rate 1 moves the weights by the gradient as it was clipped."""
    module = Toy(lambda p: torch.optim.SGD(p, lr=1.0, fused=True))
    visit = Visit(batch_size=12, max_steps=1, accelerator="cpu", precision="bf16-mixed", gradient_clip_val=1e-3)
    trainer, site = local(visit, module), Site("a", images())
    before = torch.cat([p.detach().flatten().clone() for p in module.parameters()])
    with trainer.at(site):
        trainer.fit(site, TURN, {})
    moved = torch.cat([p.detach().flatten() for p in module.parameters()]) - before
    assert moved.norm() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("visit", "steps"),
    [
        ({"batch_size": 4}, 3),
        ({"batch_size": 5}, 2),
        ({"batch_size": 64}, 1),
        ({"batch_size": 4, "max_epochs": 3}, 9),
        ({"batch_size": 4, "max_epochs": 3, "max_steps": 7}, 7),
    ],
)
def test_the_number_of_steps_of_a_visit(visit: dict[str, Any], steps: int) -> None:
    module = Toy()
    local(Visit(accelerator="cpu", **visit), module).fit(Site("a", images("a", 12)), TURN, {})
    assert module.norm.num_batches_tracked == steps


def test_a_visit_does_not_change_the_callers_random_numbers_and_logging() -> None:
    """Python's generator is looked at in test_seeds: beartype, which checks types in tests, draws from it."""
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    level = logging.getLogger("pytorch_lightning").level
    local().fit(Site("a", images()), TURN, {})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert logging.getLogger("pytorch_lightning").level == level


def test_a_visit_writes_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    local().fit(Site("a", images()), TURN, {})
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("space", "supported"), [((32, 40), True), ((64, 31), False), ((64, 64, 64), False)])
def test_bf16_on_a_cpu_needs_images_of_at_least_32_pixels_and_no_volumes(
    space: tuple[int, ...], supported: bool
) -> None:
    Visit(precision="32-true", accelerator="cpu").require_supported(space)
    error = pytest.raises(InputError, match=rf"these are {' x '.join(map(str, space))}: set 32-true")
    with nullcontext() if supported else error:
        Visit(precision="bf16-mixed", accelerator="cpu").require_supported(space)


def test_a_missing_gpu_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"visit\.accelerator is gpu, but torch finds no GPU; .* or set auto"):
        Visit(accelerator="gpu")
    assert Visit(accelerator="auto").accelerator == "auto"


@pytest.mark.parametrize("name", ["foo", "tpu", ""])
def test_an_unknown_accelerator_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=rf"visit\.accelerator must be one of auto, cpu, gpu, cuda, mps, got '{name}'"):
        Visit(accelerator=name)
