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
from fedcore.transport.in_process import InProcess
from fedtune.classification.classifier import Classifier
from fedtune.classification.losses import BinaryCrossEntropy
from fedtune.evaluation.classification import Evaluation, evaluate
from fedtune.evaluation.scores import Score
from fedtune.evaluation.scores_file import as_json, format_score, show

GRADES = ("0", "1", "2")


@pytest.fixture
def evaluation(images: Callable[..., Images]) -> Callable[[bool], Evaluation]:
    """(several) to two sites' answers to noise, of grades or of findings."""

    def make(several: bool) -> Evaluation:
        tests = {name: images([0, 1, 2] * 10, name=name) for name in ("hospital_12", "south")}
        tests = {name: replace(site, findings=one_hot(site.labels, 3).byte()) for name, site in tests.items()}
        module = Classifier(ResNet(2, 1, depth=10, stem=4), 3, **({"loss": BinaryCrossEntropy()} if several else {}))
        local = LocalTrainer(module, ("encoder.", "head."), Visit(accelerator="cpu"))
        return evaluate(InProcess(tests, local, tests), 0, () if several else range(3))

    return make


def test_a_score_in_words() -> None:
    assert format_score(Score(0.12349, 0.1, 0.2)) == "0.123 (0.10-0.20)"
    assert format_score(Score(nan, nan, nan)) == "-"
    assert format_score(Score(0.5, nan, nan)) == "0.500"  # no interval


@pytest.mark.parametrize("several", [False, True])
def test_the_tables_fit_a_terminal(
    evaluation: Callable[[bool], Evaluation], several: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    show(evaluation(several), GRADES)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["site", "images", "AUROC", "balanced", "acc.", "F1"]
    text = "\n".join(lines)
    assert ("linear kappa" in text) is not several
    assert ("finding" in text) is several
    assert "ECE" in text
    assert all(line.startswith("hospital_12 ") for line in lines if line.startswith("hos"))


def test_the_file_keeps_the_keys_that_others_read_and_gains_some(evaluation: Callable[[bool], Evaluation]) -> None:
    one, several = as_json(evaluation(False), GRADES), as_json(evaluation(True), GRADES)
    assert one.keys() == several.keys() == {"sites", "pooled"}
    common = {"auroc", "balanced_accuracy", "f1", "ece", "images", "patients", "calibration"}
    assert one["pooled"].keys() == one["sites"]["south"].keys() == common | {"kappa_linear", "kappa_quadratic"}
    assert several["pooled"].keys() == common | {"findings"}
    assert several["pooled"]["findings"].keys() == set(GRADES)
    assert (
        one["pooled"]["auroc"].keys() == several["pooled"]["findings"]["0"]["auroc"].keys() == {"value", "low", "high"}
    )
    assert one["pooled"]["calibration"][0].keys() == {"count", "sure", "held"}
