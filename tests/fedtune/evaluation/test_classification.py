from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.data.dataset import Images
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights, flatten
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedcore.privacy.policy import Policy
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.evaluation.classification import POOLED, EvaluateClassifier, require_tests
from fedtune.evaluation.counts import cell_indices
from fedtune.evaluation.scores_file import to_json
from tests.fedcore.federating import same
from tests.fedcore.toys import Hospitals
from tests.fedtune.evaluation.conftest import SIZES, evaluated

ANY = Policy(min_patients=1)


def together(sites: dict[str, Images]) -> Images:
    parts = list(sites.values())
    return Images(
        "all", np.concatenate([p.pixels for p in parts]), np.concatenate([p.splits for p in parts]),
        torch.cat([p.labels for p in parts]), np.arange(sum(map(len, parts))),
    )  # fmt: skip


def test_a_personal_model_is_scored_at_its_site(local: LocalTrainer, tests: dict[str, Images]) -> None:
    """The personal model of site b always predicts 2; the other sites have the shared model."""
    transport = Hospitals(tests, local, tests, ANY)
    before = evaluated(transport).table
    certain = {"head.weight": torch.zeros(3, 8), "head.bias": torch.tensor([0.0, 0.0, 9.0])}
    mine = {f"personal/{k}": t for k, t in (local.shared() | certain).items()}
    transport.memories.put("b", mine, Round(0, 1, seed=0))
    shared = local.shared()
    after = evaluated(transport).table
    assert all(torch.equal(shared[k], t) for k, t in local.shared().items())
    assert after["b"]["balanced_accuracy"].value == pytest.approx(1 / 3)
    assert before["b"]["balanced_accuracy"].value != pytest.approx(1 / 3)
    assert all(after[site]["f1"].value == before[site]["f1"].value for site in "ac")
    assert same(transport.memories.get("b"), mine)


def strict(text: str) -> Any:
    """JSON as others read it, to whom NaN is no number."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_pooled_scores_equal_those_of_all_images_together(local: LocalTrainer, tests: dict[str, Images]) -> None:
    found = evaluated(Hospitals(tests, local, tests, ANY))
    for_safetensors, images = found.table, found.images
    one = evaluated(Hospitals({}, local, {"all": together(tests)}, ANY)).table
    for name, score in for_safetensors[POOLED].items():
        assert score.value == pytest.approx(one[POOLED][name].value, abs=1e-12)
        assert score.value == pytest.approx(one["all"][name].value, abs=0.01)  # AUROC without bins
    assert images == SIZES | {POOLED: 77}
    assert for_safetensors.keys() == images.keys()


def test_a_sites_scores_are_those_of_its_predictions_and_lie_in_their_intervals(
    local: LocalTrainer, tests: dict[str, Images]
) -> None:
    found = evaluated(Hospitals(tests, local, tests, ANY))
    with torch.no_grad():
        logits = local.module.eval()(tests["b"].batch(range(25)))
    assert torch.equal(found.counts["b"].confusion, cell_indices(logits, tests["b"].labels).count().confusion)
    for row in found.table.values():
        for name, score in row.items():
            assert name == "ece" or score.low <= score.value <= score.high, name


def test_the_batch_size_does_not_change_counts(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, down = Hospitals(tests, local, tests, ANY), Weights(local.shared())
    counts = []
    for batch in (7, 256):
        (result,) = sites.ask(EvaluateClassifier(batch), [("a", down)], Round(0, 1, seed=0))
        assert isinstance(result, Contribution)
        counts.append(result.message)
    assert same(flatten(counts[0]), flatten(counts[1]))


def test_scores_do_not_depend_on_metrics_that_a_policy_forbids(local: LocalTrainer, tests: dict[str, Images]) -> None:
    full = evaluated(Hospitals(tests, local, tests, ANY))
    bare = evaluated(Hospitals(tests, local, tests, Policy(metrics=False, min_patients=1)))
    assert to_json(bare) == to_json(full)


def test_evaluating_changes_neither_weights_nor_memories(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, before = Hospitals(tests, local, tests, ANY), local.shared()
    evaluated(sites)
    assert all(torch.equal(before[k], t) for k, t in local.shared().items())
    assert all(sites.memories.get(name) == {} for name in SIZES)


def test_weights_that_are_not_shared_are_used_at_their_site(
    toy: Callable[[], Encoder], tests: dict[str, Images]
) -> None:
    """Each site has a head of its own, which predicts one class for all images."""
    local = LocalTrainer(Classifier(toy(), 3), ("encoder.",), Visit(accelerator="cpu"))
    sites = Hospitals(tests, local, tests, ANY)
    for k, name in enumerate(SIZES):
        bias = torch.zeros(3).index_fill(0, torch.tensor(k), 9.0)
        sites.memories.put(name, {"module/head.weight": torch.zeros(3, 8), "module/head.bias": bias}, Round(0, 1, 0))
    table = evaluated(sites).table
    for k, name in enumerate(SIZES):
        part = float((tests[name].labels == k).float().mean())
        assert table[name]["f1"].value == pytest.approx(2 * part / (1 + part) / 3, abs=1e-6)


def test_a_site_of_one_class_has_no_auroc_and_null_in_the_file(
    local: LocalTrainer, images: Callable[..., Images], tmp_path: Path
) -> None:
    sites = {"one": images([1] * 6), "two": images([0, 1, 2] * 4, name="b")}
    found = evaluated(Hospitals(sites, local, sites, ANY, folder=tmp_path))
    assert repr(found.table["one"]["auroc"].value) == "nan"
    content = strict(json.dumps(to_json(found), allow_nan=False))
    assert content["sites"]["one"]["auroc"] == {"value": None, "low": None, "high": None}
    assert content["sites"]["one"]["images"] == 6
    assert 0 <= content["pooled"]["auroc"]["value"] <= 1
    assert content["pooled"]["images"] == 18
    strict((tmp_path / "one" / "audit.jsonl").read_text().splitlines()[-1])


def test_a_site_may_have_test_images_only(local: LocalTrainer, tests: dict[str, Images]) -> None:
    table = evaluated(Hospitals({"a": tests["a"]}, local, {"b": tests["b"]}, ANY)).table
    assert table.keys() == {"b", POOLED}


def test_without_test_images_evaluation_is_an_error(local: LocalTrainer, tests: dict[str, Images]) -> None:
    with pytest.raises(InputError, match="no site has labelled test images"):
        require_tests({}, ANY)
    with pytest.raises(InputError, match="no site has 1 test patients of a class, so no site sends a score"):
        evaluated(Hospitals(tests, local, policy=ANY))


def test_per_patient_scores_count_each_patient_once(local: LocalTrainer, images: Callable[..., Images]) -> None:
    """Every patient has the same image twice or thrice, so the scores are those of one image each."""
    once = {"a": images([0, 1, 2] * 4), "b": images([2, 1, 0], name="b")}
    twice = {name: site.take([at for at in range(len(site)) for _ in range(2 + at % 2)]) for name, site in once.items()}
    assert [len(site) for site in twice.values()] == [30, 7]
    one = evaluated(Hospitals(once, local, once, ANY))
    two = evaluated(Hospitals(twice, local, twice, ANY), per_patient=True)
    for site, row in one.table.items():
        for name, score in row.items():
            assert two.table[site][name].value == pytest.approx(score.value, abs=1e-6), name
    content = to_json(two)
    assert (content["pooled"]["patients"], content["pooled"]["images"]) == (15, 37)
    assert to_json(one)["pooled"]["patients"] == 15
