from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.answer import Refusal
from fedcore.messages.message import Weights
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.bank.feature_bank import UNKNOWN_BIN
from fedssl.bank.statistics import ShareStatistics
from fedssl.bank.vectors import ShareVectors
from fedssl.methods.fcl import FCL
from fedssl.methods.moco import MoCo
from fedssl.pretraining import pretrain
from tests.fedcore.federating import federate
from tests.fedcore.toys import Hospitals, at

EXCHANGE = ShareVectors(upload_size=8, remote_features=12, encoding="fp32")


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


def all_sites(images: Callable[..., Images]) -> dict[str, Images]:
    return {name: two_volumes(images(name)) for name in "abc"}


def test_sites_share_position_bins_with_their_features(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    module = fcl(toy(), position_bins=3, bank_size=24)
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = Hospitals(all_sites(images), local, policy=Policy(Reveals.FEATURES))
    algorithm = WithExchange(FedAvg(), exchange=EXCHANGE)
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
    algorithm = WithExchange(FedAvg(), exchange=ShareStatistics(remote_features=10, min_patients=2))
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


def run_pretraining(
    folder: Path, count: int = 3, resume: bool = False, data: Data = VOLUMES
) -> dict[str, dict[str, Tensor]]:
    run = RunFolder(folder, resume=resume)
    pretrain(
        run, partial(ResNet, depth=10, stem=8), SMALL, data, exchange=ShareVectors(upload_size=16, remote_features=16),
        visit=Visit(batch_size=16, accelerator="cpu", max_steps=2), rounds=Rounds(count), loggers=(), probe=None,
        policy=Policy(Reveals.FEATURES),
    )  # fmt: skip
    memories = {name: dict(run.memories().get(name)) for name in run.about()["sites"]}
    return memories | {
        "server": safetensors.torch.load_file(folder / "state" / f"{count - 1:05d}" / "server.safetensors")
    }


def test_a_resumed_run_equals_an_uninterrupted_one_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_pretraining(tmp_path / "whole")
    on_visit_start = FCL.on_visit_start

    def stop(self: FCL, site: str, turn: Round) -> None:
        if turn.index == 2:
            raise KeyboardInterrupt
        on_visit_start(self, site, turn)

    with monkeypatch.context() as patch:
        patch.setattr(FCL, "on_visit_start", stop)
        with pytest.raises(KeyboardInterrupt):
            run_pretraining(tmp_path / "parts")
    resumed = run_pretraining(tmp_path / "parts", resume=True)
    assert resumed.keys() == whole.keys()
    for name, tensors in whole.items():
        assert tensors.keys() == resumed[name].keys()
        assert all(torch.equal(tensor, resumed[name][key]) for key, tensor in tensors.items())
    assert any("module/bank.position_bin" in tensors for tensors in whole.values())


def test_a_run_without_positions_ends_with_advice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cut volumes with data\.slices"):
        run_pretraining(tmp_path / "run", data=Data(size=16, phantom=Phantoms(sites=2, images_per_site=8)))


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
