from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.bank.feature_bank import site_id
from fedssl.methods.moco import MoCo, info_nce
from tests.fedcore.toys import Hospitals


def unit(n: int, d: int = 6) -> Tensor:
    return normalize(torch.randn(n, d), dim=1)


def moco(encoder: nn.Module, **more: float) -> MoCo:
    return MoCo(encoder, bank_size=16, remote_bank_size=16, hidden_dim=8, projection_dim=6, **more)  # type: ignore[arg-type]


def views(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]


@pytest.mark.parametrize(("n", "k", "tau"), [(1, 1, 0.2), (3, 7, 0.1), (8, 32, 0.5)])
def test_info_nce_equals_lightlys_loss_with_the_same_bank(n: int, k: int, tau: float) -> None:
    query, key, negatives = unit(n), unit(n), unit(k)
    lightly = NTXentLoss(tau, memory_bank_size=(k, 6))
    lightly.memory_bank.bank = negatives.clone()
    torch.testing.assert_close(info_nce(query, key, negatives, tau), lightly(query, key))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (4, 9)])
def test_info_nce_equals_the_papers_formula(n: int, k: int) -> None:
    query, key, negatives, tau = unit(n), unit(n), unit(k), 0.2
    expected = 0.0
    for q, positive in zip(query, key, strict=True):
        up = exp(float(q @ positive) / tau)
        expected -= log(up / (up + sum(exp(float(q @ other) / tau) for other in negatives))) / n
    assert info_nce(query, key, negatives, tau).item() == pytest.approx(expected, rel=1e-5)


def test_with_empty_banks_the_other_keys_of_the_batch_are_negatives() -> None:
    query, key, tau = unit(5), unit(5), 0.2
    others = [info_nce(query[i : i + 1], key[i : i + 1], key[[j for j in range(5) if j != i]], tau) for i in range(5)]
    torch.testing.assert_close(info_nce(query, key, torch.zeros(0, 6), tau), torch.stack(others).mean())


def test_info_nce_by_hand() -> None:
    q = torch.eye(6)[:1]
    assert info_nce(q, q, -q, temperature=0.05).item() == pytest.approx(0, abs=1e-6)
    assert info_nce(q, q, q, temperature=0.05).item() == pytest.approx(log(2), rel=1e-6)


def test_both_banks_are_negatives(toy: Callable[..., nn.Module]) -> None:
    module, pair = moco(toy()), views()
    module.bank.push(unit(3), 1, 0)
    module.remote_bank.push(unit(5), 2, 0)
    negatives = torch.cat([module.bank.entries(), module.remote_bank.entries()])
    loss = module.loss(pair)
    query = normalize(module.head(module.encoder(pair[0])), dim=1)
    torch.testing.assert_close(loss, info_nce(query, module.bank.newest(4)[0], negatives, module.temperature))


def test_only_the_query_gets_a_gradient(toy: Callable[..., nn.Module]) -> None:
    module = moco(toy())
    module.bank.push(unit(5), 1, 0)
    module.loss(views()).backward()
    with_gradient = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert with_gradient == {"encoder", "head"}
    assert not module.bank.entries().requires_grad
    optimised = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert optimised == {id(p) for p in [*module.encoder.parameters(), *module.head.parameters()]}


def test_the_momentum_encoder_is_updated_by_the_formula(toy: Callable[..., nn.Module]) -> None:
    module = moco(toy(), momentum=0.9)
    for p in [*module.encoder.parameters(), *module.head.parameters()]:
        p.data.add_(torch.randn_like(p))
    before = {k: p.clone() for k, p in module.named_parameters()}
    module.loss(views())
    for name, p in module.named_parameters():
        if name.startswith("momentum_"):
            trained = before[name.removeprefix("momentum_")]
            torch.testing.assert_close(p, 0.9 * before[name] + 0.1 * trained)
        else:
            assert torch.equal(p, before[name])


def test_the_bank_stores_normalised_keys_with_their_site_and_round(toy: Callable[..., nn.Module]) -> None:
    module, pair = moco(toy()), views(4)
    module.on_visit_start("north", Round(3, 10, seed=0))
    module.loss(pair)
    key = normalize(module.momentum_head(module.momentum_encoder(pair[1])), dim=1)
    torch.testing.assert_close(module.bank.newest(16)[0], key)
    assert module.bank.site_id[:4].tolist() == [site_id("north")] * 4
    assert module.bank.ages(current_round=5).tolist() == [2] * 4
    assert len(module.remote_bank) == 0


def test_a_visit_fills_the_bank_of_its_site_and_no_other(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    module = moco(toy())
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    sites = Hospitals({name: images(name) for name in "ab"}, local)
    fedavg, weights = FedAvg(), Weights(local.shared())
    for index, names in enumerate(["ab", "a"]):
        turn, before = Round(index, 2, seed=0), dict(sites.memories.get("b"))
        answers = list(sites.ask(fedavg, ((name, weights) for name in names), turn))
        assert all(isinstance(a, Contribution) for a in answers)
    for name, n in (("a", 16), ("b", 12)):  # 12 keys per visit, 16 slots
        memory = sites.memories.get(name)
        stored = memory["module/bank.round_index"] >= 0
        assert int(stored.sum()) == n
        assert set(memory["module/bank.site_id"][stored].tolist()) == {site_id(name)}
    assert all(torch.equal(before[k], t) for k, t in sites.memories.get("b").items())


def test_both_encoders_are_sent_and_the_banks_stay(toy: Callable[..., nn.Module]) -> None:
    module = moco(toy())
    not_sent = {name.split(".")[0] for name in module.state_dict() if not name.startswith(module.share)}
    sent = {name.split(".")[0] for name in module.state_dict() if name.startswith(module.share)}
    assert not_sent == {"bank", "remote_bank"}
    assert sent == {"encoder", "head", "momentum_encoder", "momentum_head"}
