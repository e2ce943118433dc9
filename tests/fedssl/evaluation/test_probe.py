from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from math import exp

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from fedcore.data.dataset import Images
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.message import Empty, Weights
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.evaluation.linear import linear_probe
from fedssl.evaluation.probe import Probe, effective_rank, feature_std, knn
from fedssl.methods.moco import MoCo
from tests.fedcore.toys import Hospitals

TURN = Round(0, 1, seed=0)
ANY = Policy(min_patients=1)


@pytest.mark.parametrize("k", [1, 5, 20, 100])
def test_knn_equals_a_loop(k: int) -> None:
    train, test, labels = torch.randn(40, 6), torch.randn(15, 6), torch.arange(40) % 4
    predicted = knn(train, labels, test, k)
    for row, label in zip(test, predicted.tolist(), strict=True):
        near = cosine_similarity(train, row[None]).tolist()
        votes: dict[int, float] = defaultdict(float)
        for i in sorted(range(40), key=lambda i: -near[i])[:k]:
            votes[int(labels[i])] += exp(near[i] / 0.1)
        assert label == max(votes, key=votes.__getitem__)


def test_a_training_image_is_its_own_nearest_neighbour_at_any_norm() -> None:
    train, labels = torch.randn(30, 8), torch.arange(30) % 7
    assert torch.equal(knn(train, labels, 5 * train, k=1), labels)


def test_feature_std_is_one_for_isotropic_features_and_zero_for_collapsed_ones() -> None:
    assert feature_std(torch.randn(2000, 64)) == pytest.approx(1, abs=0.02)
    assert feature_std(torch.ones(10, 64)) == 0
    assert feature_std(torch.randn(10, 1).abs() * torch.ones(64)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("shape", [(300, 64), (40, 128), (64, 64)])
def test_effective_rank_equals_its_formula_with_singular_values(shape: tuple[int, int]) -> None:
    def by_singular_values(features: Tensor) -> float:
        values = torch.linalg.svdvals(features.double() - features.double().mean(0))
        shares = (values / values.sum()).clamp_min(1e-300)
        return float(torch.exp(-(shares * shares.log()).sum()))

    features = torch.randn(shape) * 0.95 ** torch.arange(shape[1])
    assert effective_rank(features) == pytest.approx(by_singular_values(features), rel=1e-8)
    few = features[:, :3] @ torch.randn(3, shape[1])
    assert effective_rank(few) == pytest.approx(by_singular_values(few), rel=2e-6)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    """+-e_1, ..., +-e_r about any mean have r equal singular values."""
    features = torch.cat([torch.eye(8)[:rank], -torch.eye(8)[:rank]]) + 5
    assert effective_rank(features) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_of_two_unequal_directions_by_hand() -> None:
    """Singular values 3 : 1, entropy of (3/4, 1/4)."""
    features = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(features) == pytest.approx(4 / 3**0.75, rel=1e-6)
    assert effective_rank(torch.ones(4, 2)) == pytest.approx(1)


def probe_sites(sites: Hospitals, probe: Probe) -> dict[str, Contribution[Empty]]:
    down = Weights(sites.local.shared())
    answers = list(sites.ask(probe, ((name, down) for name in sites.names()), TURN))
    return {a.site: a for a in answers if isinstance(a, Contribution)}


@pytest.fixture
def local(toy: Callable[..., nn.Module]) -> LocalTrainer:
    module = MoCo(toy(), bank_size=8, remote_bank_size=8, hidden_dim=8, projection_dim=6)
    return LocalTrainer(module, module.share, Visit(accelerator="cpu"))


def test_a_probe_changes_no_weight_no_buffer_and_no_memory(local: LocalTrainer, images: Callable[..., Images]) -> None:
    sites = Hospitals({"a": images("a")}, local, {"a": images("ab")})
    sites.memories.put("a", {"module/bank.next_slot": torch.tensor(5)}, TURN)
    before = {k: t.clone() for k, t in local.shared().items()}
    answer = probe_sites(sites, Probe())["a"]
    assert answer.metrics.keys() == {"knn", "images", "feature_std", "effective_rank"}
    assert isinstance(answer.message, Empty)
    assert all(torch.equal(before[k], t) for k, t in local.shared().items())
    memory = sites.memories.get("a")
    assert memory.keys() == {"module/bank.next_slot"}
    assert memory["module/bank.next_slot"] == 5
    assert all(part.training for part in local.module.modules())


def test_knn_accuracy_is_of_labelled_images_alone(local: LocalTrainer, images: Callable[..., Images]) -> None:
    train, test = images("a", 30), images("b", 9)
    test = dataclasses.replace(test, labels=test.labels.index_fill(0, torch.tensor([0, 4]), -1))
    metrics = probe_sites(Hospitals({"a": train}, local, {"a": test}, ANY), Probe(knn_k=3))["a"].metrics
    encoder = local.module.encoder.eval()
    with torch.no_grad():
        predicted = knn(encoder(train.batch(range(30))), train.labels, encoder(test.batch(range(9))), 3)
    right = [int(predicted[i] == test.labels[i]) for i in range(9) if i not in (0, 4)]
    assert metrics["knn"] == pytest.approx(sum(right) / 7)
    assert metrics["images"] == 7


def test_the_linear_probe_is_an_option(local: LocalTrainer, images: Callable[..., Images]) -> None:
    train, test = images("a", 30), images("b", 9)
    metrics = probe_sites(Hospitals({"a": train}, local, {"a": test}, ANY), Probe(linear=True))["a"].metrics
    encoder = local.module.encoder.eval()
    with torch.no_grad():
        predicted = linear_probe(encoder(train.batch(range(30))), train.labels, encoder(test.batch(range(9))))
    assert metrics["linear"] == pytest.approx(float((predicted == test.labels).float().mean()), rel=1e-5)


def test_a_site_without_labels_or_test_images_has_collapse_metrics_alone(
    local: LocalTrainer, images: Callable[..., Images]
) -> None:
    train = {"unlabelled": images("a", labelled=False), "untested": images("b"), "unlabelled test": images("c")}
    test = {"unlabelled": images("d"), "unlabelled test": images("e", labelled=False)}
    for answer in probe_sites(Hospitals(train, local, test), Probe()).values():
        assert answer.metrics.keys() == {"feature_std", "effective_rank"}


def test_a_site_with_one_image_has_no_metric(local: LocalTrainer, images: Callable[..., Images]) -> None:
    answers = probe_sites(
        Hospitals({"a": images(n=1), "b": images("b", 1)}, local, {"b": images("c", 3)}, ANY), Probe()
    )
    assert answers["a"].metrics == {}
    assert answers["b"].metrics == {}


def test_there_is_no_score_if_all_labels_are_the_same(local: LocalTrainer, images: Callable[..., Images]) -> None:
    train = images()
    one = train.take((train.labels == 1).nonzero().flatten())
    (answer,) = probe_sites(Hospitals({"a": one}, local, {"a": one}, ANY), Probe()).values()
    assert answer.metrics.keys() == {"feature_std", "effective_rank"}


@pytest.mark.parametrize(
    ("train", "test", "sent"),
    [
        (9, 30, {"knn", "images"}),
        (10, 9, {"feature_std", "effective_rank"}),
        (10, 10, {"knn", "images", "feature_std", "effective_rank"}),
        (9, 9, set()),
    ],
)
def test_a_metric_of_too_few_patients_is_not_sent(
    local: LocalTrainer, images: Callable[..., Images], train: int, test: int, sent: set[str]
) -> None:
    """Every patient has two images, so `max_images` counts more images than patients."""
    ours, held_out = (
        dataclasses.replace(images(name, 2 * n), patients=np.arange(2 * n) // 2)
        for name, n in (("a", train), ("b", test))
    )
    (answer,) = probe_sites(Hospitals({"a": ours}, local, {"a": held_out}), Probe(linear=False)).values()
    assert answer.metrics.keys() == sent
    few = probe_sites(Hospitals({"a": ours}, local, {"a": held_out}), Probe(max_images=9)).values()
    assert [a.metrics for a in few] == [{}]


def test_unlabelled_test_patients_do_not_count(local: LocalTrainer, images: Callable[..., Images]) -> None:
    train, test = images("a", 30), images("b", 15)
    test = dataclasses.replace(test, labels=test.labels.index_fill(0, torch.arange(6), -1))
    (answer,) = probe_sites(Hospitals({"a": train}, local, {"a": test}), Probe()).values()
    assert answer.metrics.keys() == {"feature_std", "effective_rank"}


def test_a_site_with_a_personal_model_is_measured_with_it(local: LocalTrainer, images: Callable[..., Images]) -> None:
    sites = Hospitals({"a": images(), "b": images("b")}, local)
    before = probe_sites(sites, Probe())
    flat = {k: torch.zeros_like(t) for k, t in local.shared().items()}
    sites.memories.put("a", {f"personal/{k}": t for k, t in flat.items()}, TURN)
    after = probe_sites(sites, Probe())
    assert after["a"].metrics["feature_std"] == 0 < before["a"].metrics["feature_std"]
    assert after["b"].metrics == before["b"].metrics


def test_features_that_are_not_finite_are_an_error(local: LocalTrainer, images: Callable[..., Images]) -> None:
    sites = Hospitals({"a": images()}, local)
    broken = Weights({k: t.fill_(torch.nan) if t.is_floating_point() else t for k, t in local.shared().items()})
    (answer,) = sites.ask(Probe(), [("a", broken)], Round(0, 1, 0))
    assert isinstance(answer, Refusal)
    assert answer.reason == "the encoder's features are not finite"


def test_options_out_of_range_are_rejected() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Probe(knn_k=0)
