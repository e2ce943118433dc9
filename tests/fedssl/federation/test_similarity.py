from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.federation.similarity import RepresentationChange, correlation, dissimilarity
from fedssl.methods.simclr import SimCLR
from tests.fedcore.toys import Hospitals, with_callbacks

TURN = Round(0, 1, seed=0)
BY_CHANGE = Mean(weight="representation_change")


def trainer(encoder: nn.Module, rate: float) -> LocalTrainer:
    module = SimCLR(encoder, optimizer=lambda p: SGD(p, lr=rate), hidden_dim=8, projection_dim=4)
    return LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))


def sent(site: str, value: float, change: float) -> Contribution[Weights]:
    return Contribution(site, Weights({"w": torch.tensor([value])}), 1, {"representation_change": change})


def test_dissimilarity_equals_a_loop() -> None:
    features = torch.randn(6, 5)
    matrix = dissimilarity(features)
    for i, j in combinations(range(6), 2):
        expected = 1 - np.corrcoef(features[i], features[j])[0, 1]
        assert matrix[i, j].item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(matrix, matrix.T)
    torch.testing.assert_close(matrix.diagonal(), torch.zeros(6), atol=1e-6, rtol=0)


def test_correlation_equals_a_loop_over_pairs() -> None:
    a, b = dissimilarity(torch.randn(6, 5)), dissimilarity(torch.randn(6, 5))
    pairs = list(combinations(range(6), 2))
    expected = np.corrcoef([a[p].item() for p in pairs], [b[p].item() for p in pairs])[0, 1]
    assert correlation(a, b) == pytest.approx(expected, abs=1e-5)


def test_correlation_does_not_depend_on_the_scale_of_the_features() -> None:
    features = torch.randn(6, 5)
    assert correlation(dissimilarity(features), dissimilarity(3 * features + 1)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "features", [torch.ones(4, 5), torch.randn(2, 5), torch.randn(1, 5)], ids=["constant", "two", "one"]
)
def test_the_correlation_of_constant_dissimilarities_is_1(features: torch.Tensor) -> None:
    assert correlation(dissimilarity(features), dissimilarity(torch.randn_like(features))) == 1


def test_a_visit_that_changes_nothing_reports_0(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    local, site = trainer(toy(norm=False), rate=0.0), Site("a", images())
    metrics = local.fit(site, TURN, {}, [RepresentationChange().callback({}, site, TURN)])
    assert metrics["representation_change"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [3, 12])
def test_a_visit_reports_a_change_from_0_to_2(
    toy: Callable[..., nn.Module], images: Callable[..., Images], n: int
) -> None:
    local, site = trainer(toy(), rate=1.0), Site("a", images(n=n))
    metrics = local.fit(site, TURN, {}, [RepresentationChange().callback({}, site, TURN)])
    assert 1e-3 < metrics["representation_change"] <= 2


@pytest.mark.parametrize("n", [1, 2])
def test_a_site_with_fewer_than_3_images_declines(images: Callable[..., Images], n: int) -> None:
    with pytest.raises(Refused, match="needs 3 images; omit the site, or set the aggregator's weight to examples"):
        RepresentationChange().callback({}, Site("a", images(n=n)), TURN)


def test_measuring_does_not_change_the_encoder(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    """A visit with the callback ends with the same weights and batch norm statistics as one without."""
    states = []
    for measured in (True, False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            local = trainer(toy(), rate=0.1)
        site = Site("a", images())
        local.fit(site, TURN, {}, [RepresentationChange(max_images=5).callback({}, site, TURN)] if measured else [])
        states.append(local.shared())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[1])


def test_the_mean_by_hand() -> None:
    """(1 * 0.5 + 5 * 1.5 + 9 * 0) / 2 = 4; a negative rounding error counts as 0."""
    merged = BY_CHANGE.combine([sent("a", 1, 0.5), sent("b", 5, 1.5), sent("c", 9, -1e-8)], {})
    assert merged["w"].item() == pytest.approx(4.0)


def test_sites_that_changed_the_encoder_more_have_a_larger_weight(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    algorithm, local = FedAvg(BY_CHANGE), trainer(toy(), rate=0.5)
    sites = with_callbacks(Hospitals({"a": images("a", 12), "b": images("b", 24)}, local), RepresentationChange())
    state = algorithm.start(local)
    answers = list(sites.ask(algorithm, ((name, state) for name in "ab"), TURN))
    a, b = (answer.message.tensors["head.layers.0.weight"] for answer in answers)  # type: ignore[union-attr]
    r, s = (answer.metrics["representation_change"] for answer in answers)  # type: ignore[union-attr]
    assert r > 0
    assert s > 0
    merged = algorithm.merge(state, answers).tensors["head.layers.0.weight"]  # type: ignore[arg-type]
    torch.testing.assert_close(merged, (r * a + s * b) / (r + s))


def test_a_mean_of_sites_that_changed_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="all sent 0"):
        BY_CHANGE.combine([sent("a", 1, 0.0), sent("b", 5, 0.0)], {})
