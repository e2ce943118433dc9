from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.messages.message import Reveals, exposure, flatten, nbytes, unflatten
from fedcore.privacy.policy import Policy
from fedcore.site.site import Round, Site
from fedssl.bank.feature_bank import site_number
from fedssl.bank.statistics import (
    ShareStatistics,
    SiteStatistics,
    StatisticsPool,
    draw_features,
    moments,
    patients_behind,
)
from fedssl.methods.moco import MoCo

TURN = Round(2, 5, seed=7)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moco(encoder: nn.Module, remote: int = 4096) -> MoCo:
    return MoCo(encoder, bank=32, remote=remote, hidden=8, dim=4)


def along_the_first_axis(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """N(e0, covariance) with no spread along e0: dividing by the first number undoes the normalisation."""
    d = len(covariance)
    mean, full = torch.zeros(d + 1), torch.zeros(d + 1, d + 1)
    mean[0] = 1.0
    full[1:, 1:] = covariance
    return mean, full


def before_normalisation(features: Tensor) -> np.ndarray:
    return (features[:, 1:] / features[:, :1]).double().numpy()


def of_a_site(encoder: nn.Module, count: float = 100.0, seed: int = 0) -> SiteStatistics:
    values = normalize(torch.randn(200, 4, generator=generator(seed)), dim=1)
    told = moments(values)
    return SiteStatistics(told.mean, told.covariance, torch.tensor(count))


def test_moments_equal_numpys() -> None:
    features = torch.randn(50, 7, generator=generator())
    told = moments(features)
    np.testing.assert_allclose(told.mean, features.numpy().mean(0), atol=1e-6)
    np.testing.assert_allclose(told.covariance, np.cov(features.numpy().T), atol=1e-6)
    assert told.count == 50


@pytest.mark.parametrize("rank", [3, 2, 1])
def test_draws_have_the_asked_mean_and_covariance_even_a_singular_one(rank: int) -> None:
    root = torch.randn(3, rank, generator=generator(1))
    mean, covariance = along_the_first_axis(root @ root.T)
    drawn = before_normalisation(draw_features(mean, covariance, 100_000, generator()))
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), root @ root.T, atol=0.08)
    assert np.linalg.matrix_rank(drawn, tol=1.0) == rank


def test_draws_lie_on_the_sphere_and_no_spread_gives_the_mean() -> None:
    mean = torch.tensor([3.0, 4.0, 0.0])
    torch.testing.assert_close(draw_features(mean, torch.eye(3), 50, generator()).norm(dim=1), torch.ones(50))
    torch.testing.assert_close(draw_features(mean, torch.zeros(3, 3), 2, generator()), (mean / 5).expand(2, 3))


def test_the_generator_alone_decides_the_draw() -> None:
    first = draw_features(torch.ones(3), torch.eye(3), 20, generator(1))
    assert torch.equal(draw_features(torch.ones(3), torch.eye(3), 20, generator(1)), first)
    assert not torch.equal(draw_features(torch.ones(3), torch.eye(3), 20, generator(2)), first)


def test_eta_scales_the_covariance(toy: Callable[..., nn.Module]) -> None:
    mean, covariance = along_the_first_axis(torch.diag(torch.tensor([1.0, 2.0, 0.5])))
    pool = StatisticsPool({"a": mean}, {"a": covariance}, {"a": torch.tensor(80.0)})
    module = moco(toy(), remote=20_000)
    ShareStatistics(draw=20_000, eta=0.25).receive(module, pool, TURN)
    drawn = before_normalisation(module.remote.entries())
    np.testing.assert_allclose(np.cov(drawn.T), np.diag([0.25, 0.5, 0.125]), atol=0.02)


def test_a_site_is_given_the_others_in_proportion_to_their_features(toy: Callable[..., nn.Module]) -> None:
    exchange = ShareStatistics(draw=100)
    ups = {"a": of_a_site(toy(), 300.0), "b": of_a_site(toy(), 100.0), "c": of_a_site(toy(), 50.0)}
    down = exchange.broadcast(exchange.merge(exchange.start(), ups), "c", TURN)
    assert down.mean.keys() == down.covariance.keys() == down.count.keys() == {"a", "b"}
    module = moco(toy())
    module.remote.push(torch.ones(3, 4), site=1, born=0)  # last round's, to be replaced
    exchange.receive(module, down, TURN)
    sites = module.remote.site[module.remote.born >= 0].tolist()
    assert {name: sites.count(site_number(name)) for name in "abc"} == {"a": 75, "b": 25, "c": 0}
    assert set(module.remote.ages(now=TURN.index).tolist()) == {0}


def test_as_many_are_drawn_as_it_says_and_no_more_than_there_is_room_for(toy: Callable[..., nn.Module]) -> None:
    ups = {name: of_a_site(toy(), 100.0) for name in "abcdefg"}
    pool = ShareStatistics().merge(ShareStatistics().start(), ups)
    module = moco(toy())
    room = module.remote.capacity
    ShareStatistics(draw=room).receive(module, pool, TURN)
    assert sorted(module.remote.site.unique(return_counts=True)[1].tolist())[0] >= room // 7
    assert len(module.remote) == room
    with pytest.raises(Refused, match=f"{room + 1} features are drawn, the method's `remote` holds {room}"):
        ShareStatistics(draw=room + 1).receive(module, pool, TURN)


def test_receivers_of_a_site_draw_the_same_and_rounds_differ(toy: Callable[..., nn.Module]) -> None:
    exchange = ShareStatistics(draw=64)
    pool = exchange.merge(exchange.start(), {s: of_a_site(toy(), seed=i) for i, s in enumerate("abc")})

    def of_a(receiver: str, turn: Round) -> Tensor:
        module = moco(toy())
        exchange.receive(module, exchange.broadcast(pool, receiver, turn), turn)
        return module.remote.features[module.remote.site == site_number("a")]

    assert torch.equal(of_a("b", TURN), of_a("c", TURN))
    assert not torch.equal(of_a("b", TURN), of_a("b", Round(3, 5, seed=7)))


def test_an_empty_pool_gives_nothing(toy: Callable[..., nn.Module]) -> None:
    exchange, module = ShareStatistics(), moco(toy())
    exchange.receive(module, exchange.broadcast(exchange.start(), "a", TURN), TURN)
    assert len(module.remote) == 0


def site(patients: list[int], least: int = 1) -> Site:
    n = len(patients)
    images = Images("a", np.zeros((n, 1, 2, 2), np.float16), np.full(n, "train"), torch.zeros(n).long(),
                    np.array(patients))  # fmt: skip
    return Site("a", images, policy=Policy(min_patients=least))


def test_statistics_of_too_few_patients_are_never_told(toy: Callable[..., nn.Module]) -> None:
    """However many rows the bank has."""
    exchange, module = ShareStatistics(at_least=5), moco(toy())
    module.bank.push(normalize(torch.randn(30, 4), dim=1), site=0, born=0)
    few = exchange.collect(module, site([0, 0, 1, 1, 2, 2, 3, 3]), TURN)
    assert (few.count, few.mean.abs().sum(), few.covariance.abs().sum()) == (0, 0, 0)
    pool = exchange.merge(exchange.start(), {"a": few, "b": of_a_site(toy())})
    assert pool.mean.keys() == pool.covariance.keys() == pool.count.keys() == {"b"}

    assert exchange.collect(module, site([0, 1, 2, 3, 4], least=6), TURN).count == 0
    enough = exchange.collect(module, site([0, 1, 2, 3, 4]), TURN)
    torch.testing.assert_close(enough.mean, module.bank.entries().mean(0))
    assert exchange.merge(pool, {"a": enough}).mean.keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("rows", "patients", "behind"),
    [(0, [1, 2], 0), (1, [1, 2], 1), (6, [1, 1, 1, 2, 3], 3), (3, [1, 1, 1, 2, 3], 1), (4, [3, 1, 1, 1, 2], 2)],
)
def test_patients_behind_a_bank_are_the_fewest_that_fill_it(rows: int, patients: list[int], behind: int) -> None:
    assert patients_behind(rows, np.array(patients)) == behind


def test_a_covariance_needs_many_patients_a_dimension(toy: Callable[..., nn.Module]) -> None:
    exchange, module = ShareStatistics(at_least=2, full_from=8), moco(toy())
    module.bank.push(normalize(torch.randn(32, 4), dim=1), site=0, born=0)
    full = exchange.collect(module, site([*range(32)]), TURN)
    few = exchange.collect(module, site([*range(31)]), TURN)
    torch.testing.assert_close(full.covariance, module.bank.entries().T.cov())
    assert torch.equal(few.covariance, full.covariance.diagonal().diag())
    assert torch.equal(few.mean, full.mean)


def told_apart(members: Tensor, others: Tensor, sent: SiteStatistics) -> tuple[float, float]:
    """AUROC with which what a site sent tells members from others: by the residual outside the affine span of the
    covariance, and by the Mahalanobis distance."""
    values, vectors = torch.linalg.eigh(sent.covariance.double())
    null = values < 1e-6 * values.max()

    def measured(rows: Tensor) -> tuple[Tensor, Tensor]:
        turned = (rows.double() - sent.mean) @ vectors
        return turned[:, null].norm(dim=1).round(decimals=5), (turned[:, ~null] ** 2 / values[~null]).sum(1)

    pairs = zip(measured(members), measured(others), strict=True)
    residual, distance = (
        float(((one[:, None] < other).double() + (one[:, None] == other).double() / 2).mean()) for one, other in pairs
    )
    return residual, distance


@pytest.mark.parametrize("patients", [64, 200, 1280])
def test_who_was_in_cannot_be_told_by_the_affine_span(toy: Callable[..., nn.Module], patients: int) -> None:
    """64 dimensions: variances alone up to 1,279 patients, a covariance from there on."""
    module = MoCo(toy(), bank=patients, hidden=8, dim=64)
    scale = torch.exp(-torch.arange(64) / 60)
    drawn = normalize(0.5 + torch.randn(patients + 500, 64, generator=generator(3)) * scale.sqrt(), dim=1)
    members, others = drawn[:patients], drawn[patients:]
    module.bank.push(members, site=0, born=0)
    sent = ShareStatistics().collect(module, site([*range(patients)]), TURN)
    residual, distance = told_apart(members, others, sent)
    assert sent.count == patients
    assert residual == 0.5
    assert 0.5 < distance < 0.65


def test_the_attack_by_the_affine_span_works_where_nothing_forbids_it() -> None:
    drawn = normalize(torch.randn(600, 128, generator=generator(3)), dim=1)
    residual, _ = told_apart(drawn[:100], drawn[100:], moments(drawn[:100]))
    assert residual == 1.0
    _, distance = told_apart(drawn[:256], drawn[256:], moments(drawn[:256]))
    assert distance > 0.99


def test_what_leaves_are_statistics_of_the_same_size_for_any_bank(toy: Callable[..., nn.Module]) -> None:
    exchange = ShareStatistics(at_least=2)
    for n in (1, 2, 30):
        module = moco(toy())
        module.bank.push(normalize(torch.randn(n, 4), dim=1), site=0, born=0)
        up = exchange.collect(module, site([*range(n)]), TURN)
        assert nbytes(up) == 4 * (4 + 16 + 1)
        assert exposure(up) == Reveals.STATISTICS
        Policy(Reveals.STATISTICS).check(up)


def test_a_pool_survives_the_wire(toy: Callable[..., nn.Module]) -> None:
    exchange = ShareStatistics()
    pool = exchange.merge(exchange.start(), {"a": of_a_site(toy()), "b": of_a_site(toy(), seed=1)})
    again = unflatten(exchange.start(), flatten(pool))
    assert flatten(pool).keys() == flatten(again).keys()
    assert all(torch.equal(t, flatten(again)[k]) for k, t in flatten(pool).items())


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"draw": 0}, {"eta": -0.1}, {"at_least": 1}, {"full_from": 1}):
        with pytest.raises(ValueError, match="must hold"):
            ShareStatistics(**wrong)  # type: ignore[arg-type]
