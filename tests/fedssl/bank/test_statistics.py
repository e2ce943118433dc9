from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.messages.message import exposure, flatten, nbytes, unflatten
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.site.site import Site
from fedssl.bank.feature_bank import site_id
from fedssl.bank.statistics import (
    ShareStatistics,
    SiteStatistics,
    StatisticsPool,
    fewest_patients,
    moments,
    sample_features,
)
from fedssl.methods.moco import MoCo

TURN = Round(2, 5, seed=7)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moco(encoder: nn.Module, remote_bank_size: int = 4096) -> MoCo:
    return MoCo(encoder, bank_size=32, remote_bank_size=remote_bank_size, hidden_dim=8, projection_dim=4)


def along_the_first_axis(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """N(e0, covariance) with no variance along e0: dividing by the first number undoes the normalisation."""
    d = len(covariance)
    mean, full = torch.zeros(d + 1), torch.zeros(d + 1, d + 1)
    mean[0] = 1.0
    full[1:, 1:] = covariance
    return mean, full


def before_normalisation(features: Tensor) -> np.ndarray:
    return (features[:, 1:] / features[:, :1]).double().numpy()


def site_statistics(encoder: nn.Module, count: float = 100.0, seed: int = 0) -> SiteStatistics:
    values = normalize(torch.randn(200, 4, generator=generator(seed)), dim=1)
    found = moments(values)
    return SiteStatistics(found.mean, found.covariance, torch.tensor(count))


def test_moments_equal_numpys() -> None:
    features = torch.randn(50, 7, generator=generator())
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.numpy().mean(0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(features.numpy().T), atol=1e-6)
    assert found.count == 50


@pytest.mark.parametrize("rank", [3, 2, 1])
def test_samples_have_the_given_mean_and_covariance_even_a_singular_one(rank: int) -> None:
    root = torch.randn(3, rank, generator=generator(1))
    mean, covariance = along_the_first_axis(root @ root.T)
    samples = before_normalisation(sample_features(mean, covariance, 100_000, generator()))
    np.testing.assert_allclose(samples.mean(0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(samples.T), root @ root.T, atol=0.08)
    assert np.linalg.matrix_rank(samples, tol=1.0) == rank


def test_samples_have_unit_length_and_zero_covariance_gives_the_mean() -> None:
    mean = torch.tensor([3.0, 4.0, 0.0])
    torch.testing.assert_close(sample_features(mean, torch.eye(3), 50, generator()).norm(dim=1), torch.ones(50))
    torch.testing.assert_close(sample_features(mean, torch.zeros(3, 3), 2, generator()), (mean / 5).expand(2, 3))


def test_samples_depend_on_the_generator_alone() -> None:
    first = sample_features(torch.ones(3), torch.eye(3), 20, generator(1))
    assert torch.equal(sample_features(torch.ones(3), torch.eye(3), 20, generator(1)), first)
    assert not torch.equal(sample_features(torch.ones(3), torch.eye(3), 20, generator(2)), first)


def test_eta_scales_the_covariance(toy: Callable[..., nn.Module]) -> None:
    mean, covariance = along_the_first_axis(torch.diag(torch.tensor([1.0, 2.0, 0.5])))
    pool = StatisticsPool({"a": mean}, {"a": covariance}, {"a": torch.tensor(80.0)})
    module = moco(toy(), remote_bank_size=20_000)
    ShareStatistics(remote_features=20_000, eta=0.25).receive(module, pool, TURN)
    samples = before_normalisation(module.remote_bank.entries())
    np.testing.assert_allclose(np.cov(samples.T), np.diag([0.25, 0.5, 0.125]), atol=0.02)


def test_a_site_receives_other_sites_in_proportion_to_their_feature_counts(toy: Callable[..., nn.Module]) -> None:
    exchange = ShareStatistics(remote_features=100)
    ups = {"a": site_statistics(toy(), 300.0), "b": site_statistics(toy(), 100.0), "c": site_statistics(toy(), 50.0)}
    down = exchange.broadcast(exchange.merge(exchange.start(), ups), "c", TURN)
    assert down.mean.keys() == down.covariance.keys() == down.count.keys() == {"a", "b"}
    module = moco(toy())
    module.remote_bank.push(torch.ones(3, 4), site_id=1, round_index=0)  # of the last round, to be replaced
    exchange.receive(module, down, TURN)
    sites = module.remote_bank.site_id[module.remote_bank.round_index >= 0].tolist()
    assert {name: sites.count(site_id(name)) for name in "abc"} == {"a": 75, "b": 25, "c": 0}
    assert set(module.remote_bank.ages(current_round=TURN.index).tolist()) == {0}


def test_remote_features_are_sampled_up_to_the_capacity_of_the_remote_bank(toy: Callable[..., nn.Module]) -> None:
    ups = {name: site_statistics(toy(), 100.0) for name in "abcdefg"}
    pool = ShareStatistics().merge(ShareStatistics().start(), ups)
    module = moco(toy())
    capacity = module.remote_bank.capacity
    ShareStatistics(remote_features=capacity).receive(module, pool, TURN)
    assert sorted(module.remote_bank.site_id.unique(return_counts=True)[1].tolist())[0] >= capacity // 7
    assert len(module.remote_bank) == capacity
    with pytest.raises(Refused, match=f"samples {capacity + 1} features, but the remote bank holds {capacity}"):
        ShareStatistics(remote_features=capacity + 1).receive(module, pool, TURN)


def test_all_receivers_sample_the_same_features_of_a_site_and_rounds_differ(toy: Callable[..., nn.Module]) -> None:
    exchange = ShareStatistics(remote_features=64)
    pool = exchange.merge(exchange.start(), {s: site_statistics(toy(), seed=i) for i, s in enumerate("abc")})

    def received_from_a(receiver: str, turn: Round) -> Tensor:
        module = moco(toy())
        exchange.receive(module, exchange.broadcast(pool, receiver, turn), turn)
        return module.remote_bank.features[module.remote_bank.site_id == site_id("a")]

    assert torch.equal(received_from_a("b", TURN), received_from_a("c", TURN))
    assert not torch.equal(received_from_a("b", TURN), received_from_a("b", Round(3, 5, seed=7)))


def test_an_empty_pool_leaves_the_remote_bank_empty(toy: Callable[..., nn.Module]) -> None:
    exchange, module = ShareStatistics(), moco(toy())
    exchange.receive(module, exchange.broadcast(exchange.start(), "a", TURN), TURN)
    assert len(module.remote_bank) == 0


def site(patients: list[int], min_patients: int = 1) -> Site:
    n = len(patients)
    images = Images("a", np.zeros((n, 1, 2, 2), np.float16), np.full(n, "train"), torch.zeros(n).long(),
                    np.array(patients))  # fmt: skip
    return Site("a", images, policy=Policy(min_patients=min_patients))


def test_statistics_of_too_few_patients_are_never_sent(toy: Callable[..., nn.Module]) -> None:
    """Whatever the number of rows in the bank."""
    exchange, module = ShareStatistics(min_patients=5), moco(toy())
    module.bank.push(normalize(torch.randn(30, 4), dim=1), site_id=0, round_index=0)
    few = exchange.collect(module, site([0, 0, 1, 1, 2, 2, 3, 3]), TURN)
    assert (few.count, few.mean.abs().sum(), few.covariance.abs().sum()) == (0, 0, 0)
    pool = exchange.merge(exchange.start(), {"a": few, "b": site_statistics(toy())})
    assert pool.mean.keys() == pool.covariance.keys() == pool.count.keys() == {"b"}

    assert exchange.collect(module, site([0, 1, 2, 3, 4], min_patients=6), TURN).count == 0
    enough = exchange.collect(module, site([0, 1, 2, 3, 4]), TURN)
    torch.testing.assert_close(enough.mean, module.bank.entries().mean(0))
    assert exchange.merge(pool, {"a": enough}).mean.keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("rows", "patients", "fewest"),
    [(0, [1, 2], 0), (1, [1, 2], 1), (6, [1, 1, 1, 2, 3], 3), (3, [1, 1, 1, 2, 3], 1), (4, [3, 1, 1, 1, 2], 2)],
)
def test_fewest_patients_by_hand(rows: int, patients: list[int], fewest: int) -> None:
    assert fewest_patients(rows, np.array(patients)) == fewest


def test_a_covariance_needs_many_patients_per_dimension(toy: Callable[..., nn.Module]) -> None:
    exchange, module = ShareStatistics(min_patients=2, min_patients_per_dim=8), moco(toy())
    module.bank.push(normalize(torch.randn(32, 4), dim=1), site_id=0, round_index=0)
    full = exchange.collect(module, site([*range(32)]), TURN)
    few = exchange.collect(module, site([*range(31)]), TURN)
    torch.testing.assert_close(full.covariance, module.bank.entries().T.cov())
    assert torch.equal(few.covariance, full.covariance.diagonal().diag())
    assert torch.equal(few.mean, full.mean)


def attack_aurocs(members: Tensor, others: Tensor, sent: SiteStatistics) -> tuple[float, float]:
    """AUROCs of two membership attacks on what a site sent: by the residual outside the affine span of the
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
def test_the_affine_span_does_not_reveal_members(toy: Callable[..., nn.Module], patients: int) -> None:
    """64 dimensions: variances alone up to 1,279 patients, a covariance from there on."""
    module = MoCo(toy(), bank_size=patients, hidden_dim=8, projection_dim=64)
    scale = torch.exp(-torch.arange(64) / 60)
    rows = normalize(0.5 + torch.randn(patients + 500, 64, generator=generator(3)) * scale.sqrt(), dim=1)
    members, others = rows[:patients], rows[patients:]
    module.bank.push(members, site_id=0, round_index=0)
    sent = ShareStatistics().collect(module, site([*range(patients)]), TURN)
    residual, distance = attack_aurocs(members, others, sent)
    assert sent.count == patients
    assert residual == 0.5
    assert 0.5 < distance < 0.65


def test_the_attacks_succeed_on_unprotected_moments() -> None:
    rows = normalize(torch.randn(600, 128, generator=generator(3)), dim=1)
    residual, _ = attack_aurocs(rows[:100], rows[100:], moments(rows[:100]))
    assert residual == 1.0
    _, distance = attack_aurocs(rows[:256], rows[256:], moments(rows[:256]))
    assert distance > 0.99


def test_uploads_are_statistics_of_the_same_size_for_any_bank(toy: Callable[..., nn.Module]) -> None:
    exchange = ShareStatistics(min_patients=2)
    for n in (1, 2, 30):
        module = moco(toy())
        module.bank.push(normalize(torch.randn(n, 4), dim=1), site_id=0, round_index=0)
        up = exchange.collect(module, site([*range(n)]), TURN)
        assert nbytes(up) == 4 * (4 + 16 + 1)
        assert exposure(up) == Reveals.STATISTICS
        Policy(Reveals.STATISTICS).check(up)


def test_a_pool_equals_its_serialised_copy(toy: Callable[..., nn.Module]) -> None:
    exchange = ShareStatistics()
    pool = exchange.merge(exchange.start(), {"a": site_statistics(toy()), "b": site_statistics(toy(), seed=1)})
    restored = unflatten(exchange.start(), flatten(pool))
    assert flatten(pool).keys() == flatten(restored).keys()
    assert all(torch.equal(t, flatten(restored)[k]) for k, t in flatten(pool).items())


def test_options_out_of_range_are_rejected() -> None:
    for wrong in ({"remote_features": 0}, {"eta": -0.1}, {"min_patients": 1}, {"min_patients_per_dim": 1}):
        with pytest.raises(ValueError, match="must hold"):
            ShareStatistics(**wrong)  # type: ignore[arg-type]
