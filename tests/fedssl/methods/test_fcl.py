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
from fedcore.server.rounds import Rounds
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.bank.feature_bank import UNKNOWN_BIN, site_id
from fedssl.bank.statistics import ShareStatistics
from fedssl.bank.vectors import ShareVectors
from fedssl.methods.fcl import FCL, multi_positive_info_nce, to_position_bins
from fedssl.methods.moco import MoCo, info_nce
from fedssl.methods.momentum_encoder import query_features
from fedssl.pretraining import pretrain
from tests.fedcore.toys import Hospitals, at, federate

EXCHANGE = ShareVectors(upload_size=8, remote_features=12, encoding="fp32")


def unit(n: int, d: int = 6) -> Tensor:
    return normalize(torch.randn(n, d), dim=1)


def fcl(encoder: nn.Module, **more: int) -> FCL:
    return FCL(encoder, **{"bank_size": 16, "remote_bank_size": 16, "hidden_dim": 8, "projection_dim": 6} | more)  # type: ignore[arg-type]


def views(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]


def two_volumes(images: Images) -> Images:
    """Two volumes with the same number of slices."""
    half = len(images) // 2
    positions = np.tile(np.linspace(0, 1, half, dtype=np.float32), 2)
    return Images(images.site, images.pixels, images.splits, images.labels, np.arange(2 * half) // half, None, None,
                  positions=positions)  # fmt: skip


def as_loops(q: Tensor, k: Tensor, bins: Tensor, entries: Tensor, entry_bins: Tensor, tau: float) -> float:
    """Per query: the own key and each entry of its bin in the numerator, all of them in the denominator."""
    total = 0.0
    for i in range(len(q)):
        keys = [k[i], *entries] if len(entries) else [k[i], *(k[j] for j in range(len(k)) if j != i)]
        others = entry_bins if len(entries) else torch.cat([bins[:i], bins[i + 1 :]])
        denominator = sum(exp(float(q[i] @ key) / tau) for key in keys)
        positives = [0] + [j + 1 for j, b in enumerate(others) if b == bins[i] and b != UNKNOWN_BIN]
        total -= sum(log(exp(float(q[i] @ keys[j]) / tau) / denominator) for j in positives) / len(positives)
    return total / len(q)


@pytest.mark.parametrize(("n", "k", "tau"), [(1, 1, 0.2), (3, 7, 0.1), (6, 20, 0.5), (5, 0, 0.2)])
def test_the_loss_equals_its_formula_as_loops(n: int, k: int, tau: float) -> None:
    query, key, entries = unit(n), unit(n), unit(k)
    bins, entry_bins = torch.randint(-1, 3, (n,)), torch.randint(-1, 3, (k,))
    expected = as_loops(query, key, bins, entries, entry_bins, tau)
    assert multi_positive_info_nce(query, key, bins, entries, entry_bins, tau).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("k", [0, 9])
def test_without_a_match_the_loss_is_mocos(k: int) -> None:
    query, key, entries, tau = unit(5), unit(5), unit(k), 0.2
    moco = info_nce(query, key, entries, tau)
    for bins, other in (
        (torch.arange(5), torch.arange(5, 5 + k)),
        (torch.full((5,), UNKNOWN_BIN), torch.full((k,), UNKNOWN_BIN)),
    ):
        torch.testing.assert_close(multi_positive_info_nce(query, key, bins, entries, other, tau), moco)


def test_without_positions_the_loss_is_mocos_with_both_banks_plus_with_its_own(toy: Callable[..., nn.Module]) -> None:
    module, pair = fcl(toy()), views()
    module.bank.push(unit(3), 1, 0, position_bin=2)
    module.remote_bank.push(unit(5), 2, 0, position_bin=2)
    own, other = module.bank.entries().clone(), module.remote_bank.entries()
    loss = module.loss(pair)
    query, key = query_features(module, pair[0]), module.bank.newest(4)[0]
    expected = info_nce(query, key, own, 0.2) + info_nce(query, key, torch.cat([own, other]), 0.2)
    torch.testing.assert_close(loss, expected)
    assert module.bank.entry_bins().tolist() == [2, 2, 2] + [UNKNOWN_BIN] * 4


def test_the_loss_by_hand() -> None:
    """Of three equal logits two are positives, each with probability 1/3; without the negative log 2 remains."""
    e = torch.eye(6)
    loss = partial(multi_positive_info_nce, bins=torch.tensor([1]), temperature=0.01)
    entries, entry_bins = torch.stack([e[0], e[0]]), torch.tensor([1, 0])
    assert loss(e[:1], e[:1], entries=entries, entry_bins=entry_bins).item() == pytest.approx(log(3), rel=1e-5)
    separated = torch.stack([e[0], e[1]])
    assert loss(e[:1], e[:1], entries=separated, entry_bins=entry_bins).item() == pytest.approx(log(2), rel=1e-5)


def test_the_order_of_entries_and_the_numbers_of_bins_do_not_matter() -> None:
    query, key, entries = unit(4), unit(4), unit(12)
    bins, other, order = torch.arange(4) % 3, torch.arange(12) % 3, torch.randperm(12)
    loss = multi_positive_info_nce(query, key, bins, entries, other, 0.2)
    torch.testing.assert_close(multi_positive_info_nce(query, key, bins, entries[order], other[order], 0.2), loss)
    torch.testing.assert_close(multi_positive_info_nce(query, key, 7 - bins, entries, 7 - other, 0.2), loss)


def test_position_bins_are_equal_and_ordered() -> None:
    assert to_position_bins(torch.tensor([0.0, 0.24, 0.25, 0.5, 0.74, 0.75, 1.0]), 4).tolist() == [0, 0, 1, 2, 2, 3, 3]
    positions = torch.linspace(0, 1, 1001)
    for count in (1, 3, 7):
        bins = to_position_bins(positions, count)
        assert (bins.diff() >= 0).all()
        assert sorted(set(bins.tolist())) == list(range(count))


@pytest.mark.parametrize("count", [0, 2**15])
def test_position_bins_out_of_range_are_rejected(toy: Callable[..., nn.Module], count: int) -> None:
    with pytest.raises(ValueError, match=rf"position_bins must lie in 1..32767, got {count}"):
        fcl(toy(), position_bins=count)


def test_the_bank_stores_site_round_and_position_bin(toy: Callable[..., nn.Module]) -> None:
    module = fcl(toy(), position_bins=2)
    module.on_visit_start("north", Round(3, 10, seed=0))
    module.loss(views(3), torch.tensor([0.0, 0.6, 0.4])).backward()
    assert (module.bank.site_id[:3] == site_id("north")).all()
    assert module.bank.round_index[:3].tolist() == [3] * 3
    assert module.bank.entry_bins().tolist() == [0, 1, 0]
    trained = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert trained == {"encoder", "head"}


def all_sites(images: Callable[..., Images]) -> dict[str, Images]:
    return {name: two_volumes(images(name)) for name in "abc"}


def test_sites_share_position_bins_with_their_features(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    module = fcl(toy(), position_bins=3, bank_size=24)
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = Hospitals(all_sites(images), local, policy=Policy(Reveals.FEATURES))
    algorithm = WithExchange(FedAvg(), EXCHANGE)
    federate(algorithm, sites, algorithm.start(local), Rounds(2), seed=0)
    for name in "abc":
        memory = sites.memories.get(name)
        assert memory["module/bank.position_bin"].bincount().tolist() == [8, 8, 8]
        assert len(memory["module/remote_bank.position_bin"]) == 16
        stored = memory["module/remote_bank.round_index"] >= 0
        assert set(memory["module/remote_bank.position_bin"][stored].tolist()) == {0, 1, 2}


def test_the_statistics_exchange_works_as_well(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    """Synthetic features have no position bin: they are additional negatives."""
    module = fcl(toy())
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = Hospitals(all_sites(images), local, policy=Policy(min_patients=1))
    algorithm = WithExchange(FedAvg(), ShareStatistics(remote_features=10, min_patients=2))
    federate(algorithm, sites, algorithm.start(local), Rounds(2), seed=0)
    memory = sites.memories.get("a")
    assert int((memory["module/remote_bank.round_index"] >= 0).sum()) == 10
    assert set(memory.get("module/remote_bank.position_bin", torch.tensor([UNKNOWN_BIN])).tolist()) == {UNKNOWN_BIN}


def test_a_site_without_positions_declines_with_advice(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    module = fcl(toy())
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = Hospitals({"a": images("a")}, local)
    (answer,) = sites.ask(FedAvg(), [("a", Weights(local.shared()))], Round(0, 1, seed=0))
    assert isinstance(answer, Refusal)
    assert "cut volumes with data.slices, or give every row of the manifest a position" in answer.reason


def test_one_site_equals_central_training(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    visit, site = Visit(batch_size=4, accelerator="cpu"), two_volumes(images())
    module, twin = fcl(toy()), fcl(toy())
    twin.load_state_dict(module.state_dict())
    local = LocalTrainer(module, module.share, visit)
    state = federate(FedAvg(), Hospitals({"a": site}, local), Weights(local.shared()), Rounds(2), seed=0)
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
SMALL = partial(FCL, bank_size=32, remote_bank_size=32, hidden_dim=16, projection_dim=8)


def ran(folder: Path, count: int = 3, resume: bool = False, data: Data = VOLUMES) -> dict[str, dict[str, Tensor]]:
    run = RunFolder(folder, resume=resume)
    pretrain(
        run, partial(ResNet, depth=10, stem=8), SMALL, data, exchange=ShareVectors(upload_size=16, remote_features=16),
        visit=Visit(batch_size=16, accelerator="cpu", max_steps=2), rounds=Rounds(count), loggers=(), probe=None,
        policy=Policy(Reveals.FEATURES),
    )  # fmt: skip
    files = (folder / "state" / f"{count - 1:05d}").glob("*.safetensors")
    return {path.name: safetensors.torch.load_file(path) for path in files}


def test_a_resumed_run_equals_an_uninterrupted_one_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    resumed = ran(tmp_path / "parts", resume=True)
    assert resumed.keys() == whole.keys()
    for name, tensors in whole.items():
        assert tensors.keys() == resumed[name].keys()
        assert all(torch.equal(tensor, resumed[name][key]) for key, tensor in tensors.items())
    assert any("module/bank.position_bin" in tensors for tensors in whole.values())


def test_a_run_without_positions_ends_with_advice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cut volumes by data\.slices"):
        ran(tmp_path / "run", data=Data(size=16, phantom=Phantoms(sites=2, images_per_site=8)))


@pytest.mark.parametrize("dims", [2, 3])
def test_it_trains_on_images_and_on_volumes(dims: int) -> None:
    module = SMALL(ResNet(dims, 1, depth=10, stem=8))
    loss = module.loss([torch.rand(4, 1, *(16,) * dims) for _ in range(2)], torch.rand(4))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("space", [(8, 8), (4, 4, 4)], ids=["2d", "3d"])
def test_bfloat16_is_finite_and_close_to_float32(toy: Callable[..., nn.Module], space: tuple[int, ...]) -> None:
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


def test_moco_can_receive_what_fcl_sent(toy: Callable[..., nn.Module]) -> None:
    """The messages of the exchange do not depend on the method."""
    sender, receiver, turn = (
        fcl(toy()),
        MoCo(toy(), bank_size=16, remote_bank_size=16, hidden_dim=8, projection_dim=6),
        Round(0, 1, seed=0),
    )
    sender.loss(views(), torch.rand(4))
    pool = EXCHANGE.merge(EXCHANGE.start(), {"a": EXCHANGE.collect(sender, at("a"), turn)})
    EXCHANGE.receive(receiver, EXCHANGE.broadcast(pool, "b", turn), turn)
    assert torch.equal(receiver.remote_bank.entry_bins(), sender.bank.entry_bins())
