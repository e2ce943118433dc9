from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.fedrep import FedRep
from fedcore.algorithms.properties import share_of
from fedcore.algorithms.quantised import Quantised
from fedcore.errors import InputError
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from tests.fedcore.federating import assert_resumes, run, same
from tests.fedcore.toys import Hospitals, Toy, batches, broken, hospitals, local, plain, with_callbacks

VISIT = Visit(batch_size=4, max_epochs=3, accelerator="cpu")
REP = FedRep(head_epochs=2, head="norm.")  # the toy's norm is its last layer
BODY, HEAD = ("layer.weight", "layer.bias"), ("norm.weight", "norm.bias")


def sites(names: str = "abc", visit: Visit = VISIT, module: Toy | None = None) -> Hospitals:
    return Hospitals(hospitals(names), local(visit, module or Toy(plain), share=BODY))


def as_loops(names: str, rounds: int) -> tuple[Tensors, dict[str, Tensors]]:
    """Algorithm 1 of the paper: steps of the head, then steps of the body, which is averaged."""
    data = hospitals(names)
    models, total = {name: Toy(plain) for name in names}, sum(len(d) for d in data.values())
    for index in range(rounds):
        for name, module in models.items():
            visit = list(batches(data[name], VISIT, Round(index, rounds, 0)))
            an_epoch = len(visit) // 3
            for at, batch in enumerate(visit):
                module.zero_grad()
                module.loss(batch).backward()
                with torch.no_grad():
                    for k in HEAD if at < 2 * an_epoch else BODY:
                        p = module.get_parameter(k)
                        p.add_(p.grad, alpha=-0.1)
        for k in BODY:
            mean: Any = sum(len(data[n]) / total * m.state_dict()[k] for n, m in models.items())
            for module in models.values():
                module.state_dict()[k].copy_(mean)
    body = {k: models["a"].state_dict()[k] for k in BODY}
    return body, {name: module.state_dict() for name, module in models.items()}


def test_equals_the_paper_as_loops() -> None:
    transport = sites()
    state = run(REP, transport)
    body, models = as_loops("abc", 3)
    assert state.tensors.keys() == body.keys()
    for k, t in body.items():
        torch.testing.assert_close(state.tensors[k], t)
    for name, model in models.items():
        for k in HEAD:
            torch.testing.assert_close(transport.memories.get(name)[f"module/{k}"], model[k])


def test_one_site_equals_central_training_to_the_bit() -> None:
    transport = sites("a")
    state = run(REP, transport)
    body, models = as_loops("a", 3)
    assert same(state.tensors, body)
    for k in HEAD:
        assert torch.equal(transport.memories.get("a")[f"module/{k}"], models["a"][k])


def test_the_head_stays() -> None:
    assert share_of(REP, Toy()) == BODY
    assert share_of(Quantised(REP), Toy()) == BODY


@pytest.mark.parametrize("head", ["other.", "layer.", ""])
def test_a_module_must_share_a_body_and_a_head(head: str) -> None:
    module = Toy()
    module.share = ("layer.",)
    with pytest.raises((InputError, ValueError), match=r"FedRep shares a body and keeps a head|head a prefix"):
        share_of(FedRep(head=head), module)


class Watching(Toy):
    """Tells which parts had gradients in each epoch."""

    def __init__(self, tell: Callable[[set[str]], None]):
        super().__init__(plain)
        self.tell = tell

    def on_train_epoch_end(self) -> None:
        self.tell({k.split(".")[0] for k, p in self.named_parameters() if p.grad is not None})


def test_the_head_trains_first_and_then_the_body() -> None:
    noted: list[set[str]] = []
    run(REP, sites("a", module=Watching(lambda seen: noted.append(seen))), Rounds(2))
    assert noted == [{"norm"}, {"norm"}, {"layer"}] * 2


def test_after_a_visit_the_same_parameters_require_gradients_also_after_an_error() -> None:
    module = Toy(plain)
    module.norm.bias.requires_grad_(False)
    before = {k: p.requires_grad for k, p in module.named_parameters()}
    transport = Hospitals(hospitals("a") | {"b": broken("b")}, local(VISIT, module, share=BODY))
    run(REP, transport, Rounds(1))
    assert {k: p.requires_grad for k, p in module.named_parameters()} == before

    def fail(images: Tensor, _: int) -> Tensor:
        raise RuntimeError("no")

    module.training_step = fail  # type: ignore[method-assign]
    state = REP.start(transport.local)
    list(transport.ask(REP, [("a", state)], Round(0, 1, 0)))
    assert {k: p.requires_grad for k, p in module.named_parameters()} == before


def test_local_callbacks_act_on_local_training() -> None:
    with_term = with_callbacks(sites(), ProximalTerm(5.0))
    assert not same(run(REP, with_term).tensors, run(REP, sites()).tensors)


@pytest.mark.parametrize("algorithm", [REP, Quantised(REP)], ids=["alone", "int8"])
def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path, algorithm: Any) -> None:
    assert_resumes(algorithm, sites, tmp_path, Rounds(4, per_round=2))


@pytest.mark.parametrize("visit", [{"max_epochs": 2}, {"max_epochs": 3, "max_steps": 2}])
def test_a_visit_too_short_for_the_body_is_an_error(visit: dict[str, int]) -> None:
    with pytest.raises(
        InputError, match=r"visit.max_epochs must be above FedRep's head_epochs, 2, .*max_steps must be -1"
    ):
        REP.start(local(Visit(accelerator="cpu", **visit)))


def test_head_epochs_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="head_epochs must be at least 1 and head a prefix, got 0"):
        FedRep(head_epochs=0)
