from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedbn import FedBN
from fedcore.algorithms.properties import share_of
from fedcore.algorithms.quantised import Quantised
from fedcore.errors import InputError
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.models.vit import ViT
from fedcore.server.rounds import Rounds
from fedcore.site.site import Site
from fedcore.training.visit import Visit
from tests.fedcore.federating import assert_resumes, run, same
from tests.fedcore.toys import Hospitals, Toy, batches, central, hospitals, local, plain

NORM = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
VISIT = Visit(batch_size=4, accelerator="cpu")


def sites(names: str = "abc", share: tuple[str, ...] = ("layer.",)) -> Hospitals:
    return Hospitals(hospitals(names), local(VISIT, Toy(plain), share=share))


class Holding(pl.LightningModule):
    """Any parts, all shared."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.share = tuple(f"{name}." for name in parts)


def test_norms_stay_and_everything_else_travels() -> None:
    assert share_of(FedBN(), Toy()) == ("layer.weight", "layer.bias")
    assert share_of(Quantised(FedBN()), Toy()) == ("layer.weight", "layer.bias")


@pytest.mark.parametrize("dims", [2, 3])
def test_all_batch_norms_of_a_resnet_stay(dims: int) -> None:
    module = Holding(encoder=ResNet(dims, depth=10, stem=4), head=nn.Linear(4, 2))
    stays = set(module.state_dict()) - set(share_of(FedBN(), module))
    norms = [n for n, part in module.named_modules() if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d)]
    assert stays == {f"{n}.{leaf}" for n in norms for leaf in nn.BatchNorm1d(1).state_dict()}
    assert "head.weight" in share_of(FedBN(), module)


def test_norms_without_running_statistics_stay_only_with_norms_all() -> None:
    module = Holding(a=nn.GroupNorm(1, 2), b=nn.LayerNorm(2), c=nn.InstanceNorm2d(2, affine=True), d=nn.BatchNorm1d(2))
    more = Holding(e=nn.Linear(2, 2), **dict(module.named_children()))
    assert not any(name.startswith("d.") for name in share_of(FedBN(), more))
    assert {name[0] for name in share_of(FedBN(), more)} == set("abce")
    assert {name[0] for name in share_of(FedBN(norms="all"), more)} == {"e"}


def test_a_module_without_such_norms_is_an_error() -> None:
    transformer = Holding(encoder=ViT(patch=4, width=24, depth=1))
    with pytest.raises(InputError, match="but Holding shares no such norm; use FedAvg, or set norms: all"):
        share_of(FedBN(), transformer)
    assert "encoder.token" in share_of(FedBN(norms="all"), transformer)


def test_a_full_name_that_is_a_prefix_of_a_norm_is_an_error() -> None:
    module = Holding(e=nn.Linear(2, 2))
    module.e.register_parameter("n", nn.Parameter(torch.zeros(1)))
    module.e.add_module("n2", nn.BatchNorm1d(2))
    with pytest.raises(InputError, match=r"e\.n2\.weight, of a norm, starts with the full name of a tensor"):
        share_of(FedBN(), module)


def as_loops(names: str, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Algorithm 1 of the paper: every layer but the norms is averaged."""
    data = hospitals(names)
    models = {name: Toy(plain) for name in names}
    for index in range(rounds):
        for name, module in models.items():
            optimizer = module.configure_optimizers()
            for batch in batches(data[name], VISIT, Round(index, rounds, 0)):
                optimizer.zero_grad()
                module.loss(batch).backward()
                optimizer.step()
        total = sum(len(d) for d in data.values())
        for key in ("layer.weight", "layer.bias"):
            mean = sum(len(data[n]) / total * m.state_dict()[key] for n, m in models.items())
            for module in models.values():
                module.state_dict()[key].copy_(mean)
    return models["a"].state_dict(), {name: m.state_dict() for name, m in models.items()}


def test_equals_the_paper_as_loops() -> None:
    transport = sites()
    state = run(FedBN(), transport)
    world, models = as_loops("abc", 3)
    assert state.tensors.keys() == {"layer.weight", "layer.bias"}
    for key, t in state.tensors.items():
        torch.testing.assert_close(t, world[key])
    for name, model in models.items():
        own = transport.memories.get(name)
        assert {k.removeprefix("module/") for k in own} == NORM | {"seen"}
        for key in NORM:
            torch.testing.assert_close(own[f"module/{key}"], model[key])


def test_one_site_equals_central_training_to_the_bit() -> None:
    transport = sites("a")
    state = run(FedBN(), transport)
    found = state.tensors | {k.removeprefix("module/"): t for k, t in transport.memories.get("a").items()}
    assert same(found, central(Toy(plain), hospitals("a")["a"], VISIT, rounds=3))


def test_a_site_that_never_trained_has_the_initial_norms() -> None:
    transport = sites()
    state = run(FedBN(), transport)
    newcomer = Site("d", hospitals("abcd")["d"])
    with transport.local.at(newcomer):
        transport.local.load(state.tensors)
        found = {k: t.clone() for k, t in transport.local.module.state_dict().items()}
    assert same({k: found[k] for k in NORM}, {k: t for k, t in Toy().state_dict().items() if k in NORM})
    assert not newcomer.memory


@pytest.mark.parametrize("wrap", [lambda a: a, Quantised], ids=["alone", "int8"])
def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path, wrap: Callable[[FedAvg], Any]) -> None:
    assert_resumes(wrap(FedBN()), sites, tmp_path, Rounds(4, per_round=2))
