from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.data.images import Images
from fedcore.encoders import Encoder
from fedcore.errors import InputError
from fedcore.local import LocalTrainer
from fedcore.message import Contribution, Reveals, Weights, exposure, nbytes
from fedcore.policy import Policy
from fedcore.site import Round
from fedcore.transport import InProcess
from fedcore.visit import Visit
from fedtune.classifier import Classifier
from fedtune.counts import BINS, FINE
from fedtune.evaluate import POOLED, Evaluate, evaluate
from fedtune.scores import exact
from fedtune.tell import as_json
from tests.fedcore.toys import same

SIZES = {"a": 40, "b": 25, "c": 12}


@pytest.fixture
def local(toy: Callable[[], Encoder]) -> LocalTrainer:
    module = Classifier(toy(), 3)
    with torch.no_grad():
        module.head.weight *= 10  # a trained head's log-odds fill many of the bins
    return LocalTrainer(module, ("encoder.", "head."), Visit(accelerator="cpu"))


@pytest.fixture
def tests(images: Callable[..., Images]) -> dict[str, Images]:
    generator = np.random.default_rng(0)
    return {name: images(generator.integers(0, 3, n).tolist(), name=name) for name, n in SIZES.items()}


def together(sites: dict[str, Images]) -> Images:
    parts = list(sites.values())
    return Images(
        "all", np.concatenate([p.pixels for p in parts]), np.concatenate([p.splits for p in parts]),
        torch.cat([p.labels for p in parts]), np.arange(sum(map(len, parts))),
    )  # fmt: skip


def test_a_site_with_a_personal_model_is_measured_by_it(local: LocalTrainer, tests: dict[str, Images]) -> None:
    """Site b always answers 2, and the others as the federation's model does."""
    transport = InProcess(tests, local, tests)
    before = evaluate(transport, seed=0, draws=0).table
    certain = {"head.weight": torch.zeros(3, 8), "head.bias": torch.tensor([0.0, 0.0, 9.0])}
    mine = {f"personal/{k}": t for k, t in (local.shared() | certain).items()}
    transport.memories.put("b", mine, Round(0, 1, seed=0))
    shared = local.shared()
    after = evaluate(transport, seed=0, draws=0).table
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


def test_the_pooled_scores_are_those_of_all_images_in_one_place(local: LocalTrainer, tests: dict[str, Images]) -> None:
    found = evaluate(InProcess(tests, local, tests), seed=0, draws=20)
    apart, images = found.table, found.images
    one = evaluate(InProcess({}, local, {"all": together(tests)}), seed=0, draws=20).table
    for name, score in apart[POOLED].items():
        assert score.value == pytest.approx(one[POOLED][name].value, abs=1e-12)
        assert score.value == pytest.approx(one["all"][name].value, abs=0.01)  # AUROC without bins
    assert images == SIZES | {POOLED: 77}
    assert apart.keys() == images.keys()


def test_a_site_has_its_exact_scores(local: LocalTrainer, tests: dict[str, Images]) -> None:
    table = evaluate(InProcess(tests, local, tests), seed=0, draws=20).table
    with torch.no_grad():
        logits = local.module.eval()(tests["b"].batch(range(25)))
    found = exact(logits, tests["b"].labels)
    assert {k: table["b"][k].value for k in found} == pytest.approx(found, abs=1e-6)


def test_batches_do_not_matter(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, down = InProcess(tests, local, tests), Weights(local.shared())
    counts = []
    for batch in (7, 256):
        (answer,) = sites.ask(Evaluate(5, batch), [("a", down)], Round(0, 1, seed=0))
        assert isinstance(answer, Contribution)
        counts.append(answer.message)
    assert torch.equal(counts[0].confusion, counts[1].confusion)
    assert torch.equal(counts[0].histogram, counts[1].histogram)
    assert torch.equal(counts[0].reliability, counts[1].reliability)


def test_without_metrics_the_counts_give_the_scores(local: LocalTrainer, tests: dict[str, Images]) -> None:
    full = evaluate(InProcess(tests, local, tests), seed=0, draws=20).table
    bare = evaluate(InProcess(tests, local, tests, Policy(metrics=False)), seed=0, draws=20).table
    for site, row in full.items():
        for name, score in row.items():
            assert bare[site][name].value == pytest.approx(score.value, abs=0.01 if name == "auroc" else 1e-6)


def test_a_policy_of_weights_refuses_and_says_what_to_do(
    local: LocalTrainer, tests: dict[str, Images], tmp_path: Path
) -> None:
    sites = InProcess(tests, local, tests, Policy(Reveals.WEIGHTS), folder=tmp_path)
    with pytest.raises(
        InputError, match=r"a could not be evaluated: SiteCounts reveals STATISTICS .* set policy.at_most"
    ):
        evaluate(sites, seed=0, draws=5)
    lines = [strict(line) for path in tmp_path.glob("*/audit.jsonl") for line in path.read_text().splitlines()]
    assert {line["what"] for line in lines} == {"refusal"}


def test_what_leaves_is_audited_and_holds_counts_alone(
    local: LocalTrainer, tests: dict[str, Images], tmp_path: Path
) -> None:
    evaluate(InProcess(tests, local, tests, folder=tmp_path), seed=0, draws=5)
    for name in SIZES:
        entries = [strict(line) for line in (tmp_path / name / "audit.jsonl").read_text().splitlines()]
        told = {e["field"]: (e["reveals"], e.get("shape")) for e in entries}
        assert told["confusion"] == ("STATISTICS", [6, 3, 3])
        assert told["histogram"] == ("STATISTICS", [6, 3, 2, BINS])
        assert told["reliability"] == ("STATISTICS", [2, FINE])
        assert told.keys() == {"confusion", "histogram", "reliability", "answer", "metrics"}


def test_what_leaves_does_not_grow_with_the_site(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, down = InProcess(tests, local, tests), Weights(local.shared())
    answers = list(sites.ask(Evaluate(5), ((name, down) for name in SIZES), Round(0, 1, seed=0)))
    messages = [a.message for a in answers if isinstance(a, Contribution)]
    assert [nbytes(m) for m in messages] == [4 * (6 * (9 + 3 * 2 * BINS) + 2 * FINE)] * 3
    assert {exposure(m) for m in messages} == {Reveals.STATISTICS}


def test_evaluating_changes_neither_weights_nor_memories(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, before = InProcess(tests, local, tests), local.shared()
    evaluate(sites, seed=0, draws=5)
    assert all(torch.equal(before[k], t) for k, t in local.shared().items())
    assert all(sites.memories.get(name) == {} for name in SIZES)


def test_what_is_a_sites_own_is_used_at_that_site(toy: Callable[[], Encoder], tests: dict[str, Images]) -> None:
    """Each site has a head of its own, which guesses one class whatever it sees."""
    local = LocalTrainer(Classifier(toy(), 3), ("encoder.",), Visit(accelerator="cpu"))
    sites = InProcess(tests, local, tests)
    for k, name in enumerate(SIZES):
        bias = torch.zeros(3).index_fill(0, torch.tensor(k), 9.0)
        sites.memories.put(name, {"module/head.weight": torch.zeros(3, 8), "module/head.bias": bias}, Round(0, 1, 0))
    table = evaluate(sites, seed=0, draws=5).table
    for k, name in enumerate(SIZES):
        part = float((tests[name].labels == k).float().mean())
        assert table[name]["f1"].value == pytest.approx(2 * part / (1 + part) / 3, abs=1e-6)


def test_a_site_of_one_class_has_no_auroc_and_null_in_the_file(
    local: LocalTrainer, images: Callable[..., Images], tmp_path: Path
) -> None:
    sites = {"one": images([1] * 6), "two": images([0, 1, 2] * 4, name="b")}
    found = evaluate(InProcess(sites, local, sites, folder=tmp_path), seed=0, draws=5)
    assert repr(found.table["one"]["auroc"].value) == "nan"
    content = strict(json.dumps(as_json(found), allow_nan=False))
    assert content["sites"]["one"]["auroc"] == {"value": None, "low": None, "high": None}
    assert content["sites"]["one"]["images"] == 6
    assert 0 <= content["pooled"]["auroc"]["value"] <= 1
    assert content["pooled"]["images"] == 18
    strict((tmp_path / "one" / "audit.jsonl").read_text().splitlines()[-1])


def test_a_site_may_have_test_images_only(local: LocalTrainer, tests: dict[str, Images]) -> None:
    table = evaluate(InProcess({"a": tests["a"]}, local, {"b": tests["b"]}), seed=0, draws=5).table
    assert table.keys() == {"b", POOLED}


def test_without_test_images_there_is_nothing_to_evaluate(local: LocalTrainer, tests: dict[str, Images]) -> None:
    with pytest.raises(InputError, match="no site has labelled test images"):
        evaluate(InProcess(tests, local), seed=0)


def test_patients_are_counted_once_each_and_told_apart_from_images(
    local: LocalTrainer, images: Callable[..., Images]
) -> None:
    """Every patient has the same image twice or thrice, so the scores are those of one image each."""
    once = {"a": images([0, 1, 2] * 4), "b": images([2, 1, 0], name="b")}
    twice = {name: site.take([at for at in range(len(site)) for _ in range(2 + at % 2)]) for name, site in once.items()}
    assert [len(site) for site in twice.values()] == [30, 7]
    one = evaluate(InProcess(once, local, once), seed=0, draws=5)
    two = evaluate(InProcess(twice, local, twice), seed=0, draws=5, patients=True)
    for site, row in one.table.items():
        for name, score in row.items():
            assert two.table[site][name].value == pytest.approx(score.value, abs=1e-6), name
    told = as_json(two)
    assert (told["pooled"]["patients"], told["pooled"]["images"]) == (15, 37)
    assert "patients" not in as_json(one)["pooled"]
