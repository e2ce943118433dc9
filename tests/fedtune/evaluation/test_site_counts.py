"""The message of an evaluation: only counts, and none of classes of too few patients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedcore.data.dataset import Images
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights, exposure, flatten, nbytes
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.training.local_trainer import LocalTrainer
from fedtune.evaluation.classification import (
    POOLED,
    EvaluateClassifier,
    SiteCounts,
    require_classes,
)
from fedtune.evaluation.counts import CONFIDENCE_BINS, SCORE_BINS
from fedtune.evaluation.scores_file import print_scores, to_json
from tests.fedcore.toys import Hospitals
from tests.fedtune.evaluation.conftest import SIZES, evaluated
from tests.fedtune.evaluation.test_classification import ANY, strict


def test_a_policy_of_weights_is_an_error_with_advice(
    local: LocalTrainer, tests: dict[str, Images], tmp_path: Path
) -> None:
    sites = Hospitals(tests, local, tests, Policy(Reveals.WEIGHTS), folder=tmp_path)
    with pytest.raises(
        InputError, match=r"a could not be evaluated: Counts reveals STATISTICS .* set policy.max_level"
    ):
        evaluated(sites)
    lines = [strict(line) for path in tmp_path.glob("*/audit.jsonl") for line in path.read_text().splitlines()]
    assert {line["what"] for line in lines} == {"refusal"}


def test_only_counts_are_sent_and_all_are_audited(
    local: LocalTrainer, tests: dict[str, Images], tmp_path: Path
) -> None:
    evaluated(Hospitals(tests, local, tests, ANY, folder=tmp_path))
    for name in SIZES:
        entries = [strict(line) for line in (tmp_path / name / "audit.jsonl").read_text().splitlines()]
        fields = {e["field"]: (e["reveals"], e.get("shape")) for e in entries}
        assert {name: shape for name, (_, shape) in fields.items()} == {
            "counts/confusion": [3, 3], "counts/histogram": [3, 2, SCORE_BINS],
            "counts/reliability": [2, CONFIDENCE_BINS], "design_effects": [3], "patients": [], "withheld": [3],
            "answer": None,
        }  # fmt: skip
        assert {level for name, (level, _) in fields.items() if name != "answer"} == {"STATISTICS"}
        assert entries[-1]["values"].keys() == {"examples", "seconds"}


def test_the_message_size_does_not_depend_on_the_site(local: LocalTrainer, tests: dict[str, Images]) -> None:
    sites, down = Hospitals(tests, local, tests, ANY), Weights(local.shared())
    results = list(sites.ask(EvaluateClassifier(), ((name, down) for name in SIZES), Round(0, 1, seed=0)))
    messages = [a.message for a in results if isinstance(a, Contribution)]
    assert [nbytes(m) for m in messages] == [4 * (9 + 3 * 2 * SCORE_BINS + 2 * CONFIDENCE_BINS) + 3 * 4 + 8 + 3] * 3
    assert {exposure(m) for m in messages} == {Reveals.STATISTICS}


def test_a_class_of_too_few_patients_is_not_counted_and_a_site_of_none_has_no_score(
    local: LocalTrainer, images: Callable[..., Images], capsys: pytest.CaptureFixture[str]
) -> None:
    """Site a has 4 images of class 2, of 2 patients; b has 9 of each class; c has 10 and 11 of two."""
    tests = {
        "a": images([0] * 10 + [1] * 12 + [2] * 4, [*range(22), 22, 22, 23, 23]),
        "b": images([0, 1, 2] * 9, name="b"),
        "c": images([0] * 10 + [2] * 11, name="c"),
    }
    found = evaluated(Hospitals(tests, local, tests))
    assert found.withheld == {"a": (2,), "b": (0, 1, 2), "c": ()}
    assert found.images == {"a": 22, "b": 0, "c": 21, POOLED: 43}
    assert found.patients == {"a": 22, "b": 0, "c": 21, POOLED: 43}
    assert found.counts["a"].confusion.sum(1).tolist() == [10, 12, 0]
    assert found.counts["a"].histogram[2, 1].sum() == 0
    assert all(np.isnan(score.value) for score in found.table["b"].values())
    kept = {"a": tests["a"].take(range(22)), "c": tests["c"]}
    of_others = evaluated(Hospitals(kept, local, kept))
    assert to_json(of_others)["pooled"] == to_json(found)["pooled"]
    sites = to_json(found, ("clear", "ring", "round"))["sites"]
    assert sites["a"]["note"] == "fewer than 10 test patients of round; not counted"
    assert sites["b"]["note"] == "fewer than 10 test patients; no score"
    assert "note" not in sites["c"]
    print_scores(found, ("clear", "ring", "round"))
    out = capsys.readouterr().out
    assert next(line.split()[1:3] for line in out.splitlines() if line.startswith("b ")) == ["0", "-"]
    assert "b: fewer than 10 test patients; no score" in out


def test_a_site_of_too_few_patients_sends_zeros_and_the_withheld_classes(
    local: LocalTrainer, images: Callable[..., Images]
) -> None:
    tests = {"b": images([0, 1, 2] * 9, name="b")}
    (result,) = Hospitals(tests, local, tests).ask(
        EvaluateClassifier(), [("b", Weights(local.shared()))], Round(0, 1, 0)
    )
    assert isinstance(result, Contribution)
    assert isinstance(result.message, SiteCounts)
    sent = flatten(result.message)
    assert sent.pop("withheld").tolist() == [True] * 3
    assert sent.pop("design_effects").tolist() == [1.0] * 3
    assert not any(t.any() for t in sent.values())
    assert (result.examples, result.metrics) == (0, {})


def test_too_few_patients_at_all_sites_is_an_error_with_advice(
    local: LocalTrainer, images: Callable[..., Images]
) -> None:
    for labels in ([0, 1] * 4, [0, 1] * 9):
        tests = {"a": images(labels)}
        with pytest.raises(InputError, match=r"no site has 10 test patients.*lower policy\.min_patients"):
            evaluated(Hospitals(tests, local, tests))
        with pytest.raises(InputError, match="no site has 10 test patients of a class"):
            require_classes(tests, "labels", 2, Policy())
        require_classes(tests, "labels", 2, ANY)
