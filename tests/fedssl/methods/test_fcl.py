from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import Refusal, Reveals, Weights
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds, federate
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedssl.bank.bank import UNKNOWN, site_number
from fedssl.bank.statistics import ShareStatistics
from fedssl.bank.vectors import ShareVectors
from fedssl.methods.fcl import FCL, matched_nce, parts_of
from fedssl.methods.moco import MoCo, info_nce, queries
from fedssl.pretraining import pretrain
from tests.fedcore.toys import at

SHARED = ShareVectors(per_site=8, draw=12, wire="fp32")


def unit(n: int, d: int = 6) -> Tensor:
    return normalize(torch.randn(n, d), dim=1)


def fcl(encoder: nn.Module, **more: int) -> FCL:
    return FCL(encoder, **{"bank": 16, "remote": 16, "hidden": 8, "dim": 6} | more)  # type: ignore[arg-type]


def views(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]


def sliced(images: Images) -> Images:
    """Two volumes of equally many slices."""
    half = len(images) // 2
    places = np.tile(np.linspace(0, 1, half, dtype=np.float32), 2)
    return Images(images.site, images.pixels, images.splits, images.labels, np.arange(2 * half) // half, None, None,
                  positions=places)  # fmt: skip


def as_loops(q: Tensor, k: Tensor, part: Tensor, entries: Tensor, entry_part: Tensor, tau: float) -> float:
    """Per query: own key and entries of its part in the numerator in turn, all of them below."""
    total = 0.0
    for i in range(len(q)):
        keys = [k[i], *entries] if len(entries) else [k[i], *(k[j] for j in range(len(k)) if j != i)]
        others = entry_part if len(entries) else torch.cat([part[:i], part[i + 1 :]])
        below = sum(exp(float(q[i] @ key) / tau) for key in keys)
        positives = [0] + [j + 1 for j, p in enumerate(others) if p == part[i] and p != UNKNOWN]
        total -= sum(log(exp(float(q[i] @ keys[j]) / tau) / below) for j in positives) / len(positives)
    return total / len(q)


@pytest.mark.parametrize(("n", "k", "tau"), [(1, 1, 0.2), (3, 7, 0.1), (6, 20, 0.5), (5, 0, 0.2)])
def test_the_loss_equals_its_formula_as_loops(n: int, k: int, tau: float) -> None:
    query, key, entries = unit(n), unit(n), unit(k)
    part, entry_part = torch.randint(-1, 3, (n,)), torch.randint(-1, 3, (k,))
    expected = as_loops(query, key, part, entries, entry_part, tau)
    assert matched_nce(query, key, part, entries, entry_part, tau).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [0, 9])
def test_without_a_match_it_is_mocos_loss(k: int) -> None:
    query, key, entries, tau = unit(5), unit(5), unit(k), 0.2
    moco = info_nce(query, key, entries, tau)
    for part, other in (
        (torch.arange(5), torch.arange(5, 5 + k)),
        (torch.full((5,), UNKNOWN), torch.full((k,), UNKNOWN)),
    ):
        torch.testing.assert_close(matched_nce(query, key, part, entries, other, tau), moco)


def test_without_positions_the_method_is_moco_on_both_banks_and_on_its_own(toy: Callable[..., nn.Module]) -> None:
    module, pair = fcl(toy()), views()
    module.bank.push(unit(3), 1, 0, part=2)
    module.remote.push(unit(5), 2, 0, part=2)
    own, other = module.bank.entries().clone(), module.remote.entries()
    loss = module.loss(pair)
    query, key = queries(module, pair[0]), module.bank.newest(4)[0]
    expected = info_nce(query, key, own, 0.2) + info_nce(query, key, torch.cat([own, other]), 0.2)
    torch.testing.assert_close(loss, expected)
    assert module.bank.parts().tolist() == [2, 2, 2] + [UNKNOWN] * 4


def test_a_query_on_its_positives_has_the_least_loss() -> None:
    """By hand: of three equal logits two are positives, each with probability 1/3; far from the rest log 2 is left."""
    e = torch.eye(6)
    loss = partial(matched_nce, part=torch.tensor([1]), temperature=0.01)
    entries, part = torch.stack([e[0], e[0]]), torch.tensor([1, 0])
    assert loss(e[:1], e[:1], entries=entries, entry_part=part).item() == pytest.approx(log(3), rel=1e-5)
    far = torch.stack([e[0], e[1]])
    assert loss(e[:1], e[:1], entries=far, entry_part=part).item() == pytest.approx(log(2), rel=1e-5)


def test_the_order_of_entries_and_the_names_of_parts_do_not_matter() -> None:
    query, key, entries = unit(4), unit(4), unit(12)
    part, other, order = torch.arange(4) % 3, torch.arange(12) % 3, torch.randperm(12)
    loss = matched_nce(query, key, part, entries, other, 0.2)
    torch.testing.assert_close(matched_nce(query, key, part, entries[order], other[order], 0.2), loss)
    torch.testing.assert_close(matched_nce(query, key, 7 - part, entries, 7 - other, 0.2), loss)


def test_parts_are_equal_and_ordered() -> None:
    assert parts_of(torch.tensor([0.0, 0.24, 0.25, 0.5, 0.74, 0.75, 1.0]), 4).tolist() == [0, 0, 1, 2, 2, 3, 3]
    depths = torch.linspace(0, 1, 1001)
    for parts in (1, 3, 7):
        of = parts_of(depths, parts)
        assert (of.diff() >= 0).all()
        assert sorted(set(of.tolist())) == list(range(parts))


@pytest.mark.parametrize("parts", [0, 2**15])
def test_parts_out_of_range_are_refused(toy: Callable[..., nn.Module], parts: int) -> None:
    with pytest.raises(ValueError, match=rf"parts must lie in 1..32767, got {parts}"):
        fcl(toy(), parts=parts)


def test_the_bank_is_told_site_round_and_part(toy: Callable[..., nn.Module]) -> None:
    module = fcl(toy(), parts=2)
    module.on_visit_start("north", Round(3, 10, seed=0))
    module.loss(views(3), torch.tensor([0.0, 0.6, 0.4])).backward()
    assert (module.bank.site[:3] == site_number("north")).all()
    assert module.bank.born[:3].tolist() == [3] * 3
    assert module.bank.parts().tolist() == [0, 1, 0]
    learned = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert learned == {"encoder", "head"}


def hospitals(images: Callable[..., Images]) -> dict[str, Images]:
    return {name: sliced(images(name)) for name in "abc"}


def test_sites_share_parts_with_their_features(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    module = fcl(toy(), parts=3, bank=24)
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = InProcess(hospitals(images), local, policy=Policy(Reveals.FEATURES))
    carry = WithExchange(FedAvg(), exchange=SHARED)
    federate(carry, sites, carry.start(local), Rounds(2), seed=0)
    for name in "abc":
        memory = sites.memories.get(name)
        assert memory["module/bank.part"].bincount().tolist() == [8, 8, 8]
        assert len(memory["module/remote.part"]) == 16
        there = memory["module/remote.born"] >= 0
        assert set(memory["module/remote.part"][there].tolist()) == {0, 1, 2}


def test_statistics_serve_as_well(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    """Synthetic features are of no known part: further negatives."""
    module = fcl(toy())
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = InProcess(hospitals(images), local, policy=Policy(min_patients=1))
    carry = WithExchange(FedAvg(), exchange=ShareStatistics(draw=10, at_least=2))
    federate(carry, sites, carry.start(local), Rounds(2), seed=0)
    memory = sites.memories.get("a")
    assert int((memory["module/remote.born"] >= 0).sum()) == 10
    assert set(memory.get("module/remote.part", torch.tensor([UNKNOWN])).tolist()) == {UNKNOWN}


def test_a_site_without_positions_says_what_to_do(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    module = fcl(toy())
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = InProcess({"a": images("a")}, local)
    (answer,) = sites.ask(FedAvg(), [("a", Weights(local.shared()))], Round(0, 1, seed=0))
    assert isinstance(answer, Refusal)
    assert "cut volumes by data.slices, or give every row of the manifest a position" in answer.reason


def test_one_site_is_central_training(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    visit, site = Visit(batch_size=4, accelerator="cpu"), sliced(images())
    module, twin = fcl(toy()), fcl(toy())
    twin.load_state_dict(module.state_dict())
    local = LocalTrainer(module, module.share, visit)
    state = federate(FedAvg(), InProcess({"a": site}, local), Weights(local.shared()), Rounds(2), seed=0)
    for index in range(2):
        turn, optimizer = Round(index, 2, seed=0), twin.configure_optimizers()
        order = torch.Generator().manual_seed(turn.seed_of("a", "order"))
        twin.on_visit_start("a", turn)
        with seeded(turn.seed_of("a")):
            for batch in loader(site, 4, True, True, "positions", order):
                optimizer.zero_grad()
                twin.training_step(batch, 0).backward()
                optimizer.step()
    for name, tensor in state.tensors.items():
        torch.testing.assert_close(tensor, twin.state_dict()[name])


VOLUMES = Data(size=16, slices=0, phantom=Phantoms(sites=2, images_per_site=4, spatial_dims=3))
SMALL = partial(FCL, bank=32, remote=32, hidden=16, dim=8)


def ran(folder: Path, count: int = 3, resume: bool = False, data: Data = VOLUMES) -> dict[str, dict[str, Tensor]]:
    run = RunFolder(folder, resume=resume)
    pretrain(
        run, partial(ResNet, depth=10, stem=8), SMALL, data, exchange=ShareVectors(per_site=16, draw=16),
        visit=Visit(batch_size=16, accelerator="cpu", max_steps=2), rounds=Rounds(count), loggers=(), probe=None,
        policy=Policy(Reveals.FEATURES),
    )  # fmt: skip
    files = (folder / "state" / f"{count - 1:05d}").glob("*.safetensors")
    return {path.name: safetensors.torch.load_file(path) for path in files}


def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ran(tmp_path / "whole")
    on_visit_start = FCL.on_visit_start

    def stop(self: FCL, site: str, turn: Round) -> None:
        if turn.index == 2:
            raise KeyboardInterrupt
        on_visit_start(self, site, turn)

    with monkeypatch.context() as patch:
        patch.setattr(FCL, "on_visit_start", stop)
        with pytest.raises(KeyboardInterrupt):
            ran(tmp_path / "parts")
    parts = ran(tmp_path / "parts", resume=True)
    assert parts.keys() == whole.keys()
    for name, tensors in whole.items():
        assert tensors.keys() == parts[name].keys()
        assert all(torch.equal(tensor, parts[name][key]) for key, tensor in tensors.items())
    assert any("module/bank.part" in tensors for tensors in whole.values())


def test_a_run_that_knows_no_positions_ends_with_the_advice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cut volumes by data\.slices"):
        ran(tmp_path / "run", data=Data(size=16, phantom=Phantoms(sites=2, images_per_site=8)))


@pytest.mark.parametrize("dims", [2, 3])
def test_pictures_and_volumes(dims: int) -> None:
    module = SMALL(ResNet(dims, 1, depth=10, stem=8))
    loss = module.loss([torch.rand(4, 1, *(16,) * dims) for _ in range(2)], torch.rand(4))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("space", [(8, 8), (4, 4, 4)], ids=["2d", "3d"])
def test_bfloat16_is_finite_and_near(toy: Callable[..., nn.Module], space: tuple[int, ...]) -> None:
    """Without convolutions: on CPUs torch 2.15 (oneDNN) gets bf16 weight gradients wrong on maps of 1 or 2 pixels."""
    module, twin = fcl(toy()), fcl(toy())
    twin.load_state_dict(module.state_dict())
    batch = ([torch.rand(4, 1, *space) for _ in range(2)], torch.rand(4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.loss(*batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(twin.loss(*batch).item(), rel=0.05)
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_two_banks_of_moco_and_fcl_speak_one_language(toy: Callable[..., nn.Module]) -> None:
    """A site with one method may read what a site with the other has sent."""
    sender, receiver, turn = fcl(toy()), MoCo(toy(), bank=16, remote=16, hidden=8, dim=6), Round(0, 1, seed=0)
    sender.loss(views(), torch.rand(4))
    pool = SHARED.merge(SHARED.start(), {"a": SHARED.collect(sender, at("a"), turn)})
    SHARED.receive(receiver, SHARED.broadcast(pool, "b", turn), turn)
    assert torch.equal(receiver.remote.parts(), sender.bank.parts())
