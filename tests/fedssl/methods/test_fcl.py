from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp, log

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedssl.bank.feature_bank import UNKNOWN_BIN, site_id
from fedssl.methods.fcl import FCL, multi_positive_info_nce, to_position_bins
from fedssl.methods.moco import info_nce
from fedssl.methods.momentum_encoder import query_features


def unit(n: int, d: int = 6) -> Tensor:
    return normalize(torch.randn(n, d), dim=1)


def fcl(encoder: nn.Module, **more: int) -> FCL:
    return FCL(encoder, **{"bank_size": 16, "remote_bank_size": 16, "hidden_dim": 8, "projection_dim": 6} | more)  # type: ignore[arg-type]


def views(n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8), torch.randn(n, 1, 8, 8)]


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


SMALL = partial(FCL, bank_size=32, remote_bank_size=32, hidden_dim=16, projection_dim=8)


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
