from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import nan

import pytest
from torch.nn.functional import one_hot

from fedcore.data.dataset import Images
from fedcore.models.resnet import ResNet
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.classification.losses import BinaryCrossEntropy
from fedtune.evaluation.classification import ClassificationScores
from fedtune.evaluation.scores import Score
from fedtune.evaluation.scores_file import format_score, print_scores, to_json
from tests.fedcore.toys import Hospitals
from tests.fedtune.evaluation.conftest import evaluated

GRADES = ("0", "1", "2")


@pytest.fixture
def evaluation(images: Callable[..., Images]) -> Callable[[bool], ClassificationScores]:
    """(multilabel) to two sites' answers to noise, of grades or of findings."""

    def make(multilabel: bool) -> ClassificationScores:
        tests = {name: images([0, 1, 2] * 10, name=name) for name in ("hospital_12", "south")}
        tests = {name: replace(site, findings=one_hot(site.labels, 3).byte()) for name, site in tests.items()}
        module = Classifier(ResNet(2, 1, depth=10, stem=4), 3, **({"loss": BinaryCrossEntropy()} if multilabel else {}))
        local = LocalTrainer(module, ("encoder.", "head."), Visit(accelerator="cpu"))
        return evaluated(Hospitals(tests, local, tests), () if multilabel else range(3))

    return make


def test_format_score() -> None:
    assert format_score(Score(0.12349, 0.1, 0.2)) == "0.123 (0.10-0.20)"
    assert format_score(Score(nan, nan, nan)) == "-"
    assert format_score(Score(0.5, nan, nan)) == "0.500"  # no interval


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_tables_fit_a_terminal(
    evaluation: Callable[[bool], ClassificationScores], multilabel: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    print_scores(evaluation(multilabel), GRADES)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["site", "images", "AUROC", "balanced", "acc.", "F1"]
    text = "\n".join(lines)
    assert ("linear kappa" in text) is not multilabel
    assert ("finding" in text) is multilabel
    assert "ECE" in text
    assert all(line.startswith("hospital_12 ") for line in lines if line.startswith("hos"))


def test_keys_of_scores_json(
    evaluation: Callable[[bool], ClassificationScores],
) -> None:
    one, multilabel = to_json(evaluation(False), GRADES), to_json(evaluation(True), GRADES)
    assert one.keys() == multilabel.keys() == {"sites", "pooled"}
    common = {"auroc", "balanced_accuracy", "f1", "ece", "images", "patients", "calibration"}
    assert one["pooled"].keys() == one["sites"]["south"].keys() == common | {"kappa_linear", "kappa_quadratic"}
    assert multilabel["pooled"].keys() == common | {"findings"}
    assert multilabel["pooled"]["findings"].keys() == set(GRADES)
    assert (
        one["pooled"]["auroc"].keys()
        == multilabel["pooled"]["findings"]["0"]["auroc"].keys()
        == {"value", "low", "high"}
    )
    assert one["pooled"]["calibration"][0].keys() == {"count", "confidence", "accuracy"}
