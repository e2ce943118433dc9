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
from fedcore.messages.message import Contribution, Reveals, Weights, exposure, flatten, nbytes
from fedcore.models.base import Encoder
from fedcore.privacy.policy import Policy
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedtune.classification.classifier import Classifier
from fedtune.evaluation.classification import POOLED, Evaluate, SiteCounts, evaluate, require_classes
from fedtune.evaluation.counts import BINS, FINE, cells
from fedtune.evaluation.scores_file import as_json, show
from tests.fedcore.toys import same

SIZES = {"a": 40, "b": 25, "c": 12}
ANY = Policy(min_patients=1)


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
    transport = InProcess(tests, local, tests, ANY)
    before = evaluate(transport, seed=0).table
    certain = {"head.weight": torch.zeros(3, 8), "head.bias": torch.tensor([0.0, 0.0, 9.0])}
    mine = {f"personal/{k}": t for k, t in (local.shared() | certain).items()}
    transport.memories.put("b", mine, Round(0, 1, seed=0))
    shared = local.shared()
    after = evaluate(transport, seed=0).table
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
    found = evaluate(InProcess(tests, local, tests, ANY), seed=0)
    apart, images = found.table, found.images
    one = evaluate(InProcess({}, local, {"all": together(tests)}, ANY), seed=0).table
    for name, score in apart[POOLED].items():
        assert score.value == pytest.approx(one[POOLED][name].value, abs=1e-12)
        assert score.value == pytest.approx(one["all"][name].value, abs=0.01)  # AUROC without bins
    assert images == SIZES | {POOLED: 77}
    assert apart.keys() == images.keys()


def test_a_sites_scores_are_those_of_its_answers_and_lie_in_their_intervals(
    local: LocalTrainer, tests: dict[str, Images]
) -> None:
    found = evaluate(InProcess(tests, local, tests, ANY), seed=0)
    with torch.no_grad():
        logits = local.module.eval()(tests["b"].batch(range(25)))
    assert torch.equal(found.counts["b"].confusion, cells(logits, tests["b"].labels).count().confusion)
    for row in found.table.values():
        for name, score in row.items():
            assert name == "ece" or score.low <= score.value <= score.high, name


def test_batches_do_not_matter(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, down = InProcess(tests, local, tests, ANY), Weights(local.shared())
    counts = []
    for batch in (7, 256):
        (answer,) = sites.ask(Evaluate(batch), [("a", down)], Round(0, 1, seed=0))
        assert isinstance(answer, Contribution)
        counts.append(answer.message)
    assert same(flatten(counts[0]), flatten(counts[1]))


def test_scores_do_not_hang_on_the_scalars_that_a_policy_holds_back(
    local: LocalTrainer, tests: dict[str, Images]
) -> None:
    full = evaluate(InProcess(tests, local, tests, ANY), seed=0)
    bare = evaluate(InProcess(tests, local, tests, Policy(metrics=False, min_patients=1)), seed=0)
    assert as_json(bare) == as_json(full)


def test_a_policy_of_weights_refuses_and_says_what_to_do(
    local: LocalTrainer, tests: dict[str, Images], tmp_path: Path
) -> None:
    sites = InProcess(tests, local, tests, Policy(Reveals.WEIGHTS), folder=tmp_path)
    with pytest.raises(
        InputError, match=r"a could not be evaluated: Counts reveals STATISTICS .* set policy.max_level"
    ):
        evaluate(sites, seed=0)
    lines = [strict(line) for path in tmp_path.glob("*/audit.jsonl") for line in path.read_text().splitlines()]
    assert {line["what"] for line in lines} == {"refusal"}


def test_what_leaves_is_audited_and_holds_counts_alone(
    local: LocalTrainer, tests: dict[str, Images], tmp_path: Path
) -> None:
    evaluate(InProcess(tests, local, tests, ANY, folder=tmp_path), seed=0)
    for name in SIZES:
        entries = [strict(line) for line in (tmp_path / name / "audit.jsonl").read_text().splitlines()]
        told = {e["field"]: (e["reveals"], e.get("shape")) for e in entries}
        assert {name: shape for name, (_, shape) in told.items()} == {
            "counts/confusion": [3, 3], "counts/histogram": [3, 2, BINS], "counts/reliability": [2, FINE],
            "design": [3], "patients": [], "withheld": [3], "answer": None,
        }  # fmt: skip
        assert {level for name, (level, _) in told.items() if name != "answer"} == {"STATISTICS"}
        assert entries[-1]["values"].keys() == {"examples", "seconds"}


def test_what_leaves_does_not_grow_with_the_site(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, down = InProcess(tests, local, tests, ANY), Weights(local.shared())
    answers = list(sites.ask(Evaluate(), ((name, down) for name in SIZES), Round(0, 1, seed=0)))
    messages = [a.message for a in answers if isinstance(a, Contribution)]
    assert [nbytes(m) for m in messages] == [4 * (9 + 3 * 2 * BINS + 2 * FINE) + 3 * 4 + 8 + 3] * 3
    assert {exposure(m) for m in messages} == {Reveals.STATISTICS}


def test_evaluating_changes_neither_weights_nor_memories(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, before = InProcess(tests, local, tests, ANY), local.shared()
    evaluate(sites, seed=0)
    assert all(torch.equal(before[k], t) for k, t in local.shared().items())
    assert all(sites.memories.get(name) == {} for name in SIZES)


def test_what_is_a_sites_own_is_used_at_that_site(toy: Callable[[], Encoder], tests: dict[str, Images]) -> None:
    """Each site has a head of its own, which guesses one class whatever it sees."""
    local = LocalTrainer(Classifier(toy(), 3), ("encoder.",), Visit(accelerator="cpu"))
    sites = InProcess(tests, local, tests, ANY)
    for k, name in enumerate(SIZES):
        bias = torch.zeros(3).index_fill(0, torch.tensor(k), 9.0)
        sites.memories.put(name, {"module/head.weight": torch.zeros(3, 8), "module/head.bias": bias}, Round(0, 1, 0))
    table = evaluate(sites, seed=0).table
    for k, name in enumerate(SIZES):
        part = float((tests[name].labels == k).float().mean())
        assert table[name]["f1"].value == pytest.approx(2 * part / (1 + part) / 3, abs=1e-6)


def test_a_site_of_one_class_has_no_auroc_and_null_in_the_file(
    local: LocalTrainer, images: Callable[..., Images], tmp_path: Path
) -> None:
    sites = {"one": images([1] * 6), "two": images([0, 1, 2] * 4, name="b")}
    found = evaluate(InProcess(sites, local, sites, ANY, folder=tmp_path), seed=0)
    assert repr(found.table["one"]["auroc"].value) == "nan"
    content = strict(json.dumps(as_json(found), allow_nan=False))
    assert content["sites"]["one"]["auroc"] == {"value": None, "low": None, "high": None}
    assert content["sites"]["one"]["images"] == 6
    assert 0 <= content["pooled"]["auroc"]["value"] <= 1
    assert content["pooled"]["images"] == 18
    strict((tmp_path / "one" / "audit.jsonl").read_text().splitlines()[-1])


def test_a_site_may_have_test_images_only(local: LocalTrainer, tests: dict[str, Images]) -> None:
    table = evaluate(InProcess({"a": tests["a"]}, local, {"b": tests["b"]}, ANY), seed=0).table
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
    one = evaluate(InProcess(once, local, once, ANY), seed=0)
    two = evaluate(InProcess(twice, local, twice, ANY), seed=0, by_patient=True)
    for site, row in one.table.items():
        for name, score in row.items():
            assert two.table[site][name].value == pytest.approx(score.value, abs=1e-6), name
    told = as_json(two)
    assert (told["pooled"]["patients"], told["pooled"]["images"]) == (15, 37)
    assert as_json(one)["pooled"]["patients"] == 15


def test_a_class_of_too_few_patients_is_not_counted_and_a_site_of_none_has_no_score(
    local: LocalTrainer, images: Callable[..., Images], capsys: pytest.CaptureFixture[str]
) -> None:
    """Site a has 4 images of class 2, of 2 patients; b has 9 of each class; c has 10 and 11 of two."""
    tests = {
        "a": images([0] * 10 + [1] * 12 + [2] * 4, [*range(22), 22, 22, 23, 23]),
        "b": images([0, 1, 2] * 9, name="b"),
        "c": images([0] * 10 + [2] * 11, name="c"),
    }
    found = evaluate(InProcess(tests, local, tests), seed=0)
    assert found.withheld == {"a": (2,), "b": (0, 1, 2), "c": ()}
    assert found.images == {"a": 22, "b": 0, "c": 21, POOLED: 43}
    assert found.patients == {"a": 22, "b": 0, "c": 21, POOLED: 43}
    assert found.counts["a"].confusion.sum(1).tolist() == [10, 12, 0]
    assert found.counts["a"].histogram[2, 1].sum() == 0
    assert all(np.isnan(score.value) for score in found.table["b"].values())
    kept = {"a": tests["a"].take(range(22)), "c": tests["c"]}
    of_others = evaluate(InProcess(kept, local, kept), seed=0)
    assert as_json(of_others)["pooled"] == as_json(found)["pooled"]
    told = as_json(found, ("clear", "ring", "round"))["sites"]
    assert told["a"]["note"] == "fewer than 10 test patients of round; not counted"
    assert told["b"]["note"] == "fewer than 10 test patients; no score"
    assert "note" not in told["c"]
    show(found, ("clear", "ring", "round"))
    said = capsys.readouterr().out
    assert next(line.split()[1:3] for line in said.splitlines() if line.startswith("b ")) == ["0", "-"]
    assert "b: fewer than 10 test patients; no score" in said


def test_a_site_of_too_few_sends_nothing_but_zeros_and_which_classes(
    local: LocalTrainer, images: Callable[..., Images]
) -> None:
    tests = {"b": images([0, 1, 2] * 9, name="b")}
    (answer,) = InProcess(tests, local, tests).ask(Evaluate(), [("b", Weights(local.shared()))], Round(0, 1, 0))
    assert isinstance(answer, Contribution)
    assert isinstance(answer.message, SiteCounts)
    sent = flatten(answer.message)
    assert sent.pop("withheld").tolist() == [True] * 3
    assert sent.pop("design").tolist() == [1.0] * 3
    assert not any(t.any() for t in sent.values())
    assert (answer.examples, answer.metrics) == (0, {})


def test_where_no_site_has_enough_patients_it_is_told_what_to_do(
    local: LocalTrainer, images: Callable[..., Images]
) -> None:
    for labels in ([0, 1] * 4, [0, 1] * 9):
        tests = {"a": images(labels)}
        with pytest.raises(InputError, match=r"no site has 10 test patients.*lower policy\.min_patients"):
            evaluate(InProcess(tests, local, tests), seed=0)
        with pytest.raises(InputError, match="no site has 10 test patients of a class"):
            require_classes(tests, "labels", 2, Policy())
        require_classes(tests, "labels", 2, ANY)
