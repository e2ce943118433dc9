from __future__ import annotations

from math import nan

import pytest
import torch

from fedtune.counts import Counts, count, count_findings
from fedtune.evaluate import POOLED, Evaluation, scored
from fedtune.scores import Score
from fedtune.tell import as_json, format_score, show

GRADES = ("0", "1", "2")


def evaluation(several: bool = False) -> Evaluation:
    """Two sites."""
    counts: dict[str, Counts] = {}
    for at, site in enumerate(("hospital_12", "south")):
        draw = torch.Generator().manual_seed(at)
        logits, labels = torch.randn(30, 3, generator=draw), torch.randint(3, (30,), generator=draw)
        told = torch.nn.functional.one_hot(labels, 3)
        counts[site] = (
            count_findings(logits, told, torch.arange(30), 20, 0)
            if several
            else count(logits, labels, torch.arange(30), 20, 0)
        )
    counts[POOLED] = counts["hospital_12"] + counts["south"]
    images = {"hospital_12": 30, "south": 30, POOLED: 60}
    return Evaluation({s: scored(c, () if several else range(3)) for s, c in counts.items()}, images, counts)


def test_a_score_in_words() -> None:
    assert format_score(Score(0.12349, 0.1, 0.2)) == "0.123 (0.10-0.20)"
    assert format_score(Score(nan, nan, nan)) == "-"
    assert format_score(Score(0.5, nan, nan)) == "0.500"  # no bootstrap, no interval


@pytest.mark.parametrize("several", [False, True])
def test_the_tables_fit_a_terminal(several: bool, capsys: pytest.CaptureFixture[str]) -> None:
    show(evaluation(several), GRADES)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["site", "images", "AUROC", "balanced", "acc.", "F1"]
    text = "\n".join(lines)
    assert ("linear kappa" in text) is not several
    assert ("finding" in text) is several
    assert "ECE" in text
    assert all(line.startswith("hospital_12 ") for line in lines if line.startswith("hos"))


def test_the_file_keeps_the_keys_that_others_read_and_gains_some() -> None:
    one, several = as_json(evaluation(), GRADES), as_json(evaluation(True), GRADES)
    assert one.keys() == several.keys() == {"sites", "pooled"}
    common = {"auroc", "balanced_accuracy", "f1", "ece", "images", "calibration"}
    assert one["pooled"].keys() == one["sites"]["south"].keys() == common | {"kappa_linear", "kappa_quadratic"}
    assert several["pooled"].keys() == common | {"findings"}
    assert several["pooled"]["findings"].keys() == set(GRADES)
    assert (
        one["pooled"]["auroc"].keys() == several["pooled"]["findings"]["0"]["auroc"].keys() == {"value", "low", "high"}
    )
    assert one["pooled"]["calibration"][0].keys() == {"count", "sure", "held"}
