"""The gain from a set: which runs are compared, and differences with their intervals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedcore.report import write_comparison
from fedcore.report.naming import RANDOM
from fedcore.report.read.reader import read_run
from fedcore.report.read.run import Estimate
from fedcore.report.sections.comparison import ComparedRun, compared, families
from fedcore.report.sections.gains import difference, pairs, unpaired
from fedcore.report.sections.results import POOLED

MakeRun = Callable[..., Path]
SET = {"manifest": "my_set/manifest.csv", "fraction": 0.25}
RECIPE: dict[str, Any] = {
    "out": "checkpoints/x", "pretrained": "checkpoints/moco", "seed": 0, "label_fraction": 0.1,
    "data": {"manifest": "my.csv", "synthetic": None, "extra_manifests": [], "allow_unaudited": False},
}  # fmt: skip


@pytest.fixture
def tuned(make_run: MakeRun, write_scores: Callable[..., None]) -> MakeRun:
    """`tuned(name, seed=..., pooled=..., synthetic=...)`: a run with these in its recipe, or in its data."""

    def make(name: str, pooled: float = 0.8, data: str = "abc", sites: int = 4, **recipe: Any) -> Path:
        folder = make_run(name, command="finetune", rounds=2, data=data)
        into = {key: recipe.pop(key) for key in ("synthetic", "extra_manifests", "allow_unaudited") if key in recipe}
        written = RECIPE | {"out": f"checkpoints/{name}"} | recipe | {"data": RECIPE["data"] | into}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(written))
        write_scores(folder, tuple(f"hospital_{n + 1}" for n in range(sites)), pooled=pooled)
        return folder

    return make


def runs_of(*folders: Path) -> tuple[ComparedRun, ...]:
    return compared([read_run(folder) for folder in folders])


def test_runs_that_differ_only_in_a_set_are_compared(tuned: MakeRun) -> None:
    found = runs_of(
        tuned("other_seed", seed=1), tuned("fewer", label_fraction=0.01), tuned("scratch", pretrained=None),
        tuned("without", pretrained="elsewhere/moco/encoder", workers=4),
        tuned("with", data="abc+12", pooled=0.85, synthetic=SET, allow_unaudited=True),
        tuned("joined", data="abc+34", extra_manifests=["my_set/manifest.csv"]),
    )  # fmt: skip
    one, other = pairs(found)
    assert (one.with_set.name, one.without.name, one.how) == ("with", "without", "25 % of every batch")
    assert (other.with_set.name, other.without.name, other.how) == ("joined", "without", "as additional sites")
    assert one.columns == ("Balanced accuracy", "AUROC")
    assert [owner for owner, _, _ in one.rows] == ["hospital_1", "hospital_2", "hospital_3", "hospital_4", POOLED]
    *_, (_, (_, gain), _) = one.rows
    assert gain is not None
    assert (gain.without.value, gain.with_set.value) == (0.8, 0.85)
    assert gain.points.value == pytest.approx(5)
    assert unpaired(found) == []


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"label_fraction": 0.01}, {"pretrained": None}, {"data": "xyz"}, {"visit": {"max_steps": 3}}]
)
def test_a_run_without_an_equal_one_is_reported(tuned: MakeRun, other: dict[str, Any]) -> None:
    found = runs_of(tuned("without", **other), tuned("with", data="abc+12", synthetic=SET))
    assert pairs(found) == ()
    (text,) = unpaired(found)
    assert text.startswith("with used a synthetic set or additional sites, but no run without them is equal to it")


def test_sites_of_the_set_are_left_out_with_what_is_pooled_over_them(tuned: MakeRun) -> None:
    found = runs_of(tuned("without", sites=3), tuned("with", sites=4, extra_manifests=["my_set/manifest.csv"]))
    (pair,) = pairs(found)
    assert [owner for owner, _, _ in pair.rows] == ["hospital_1", "hospital_2", "hospital_3"]


def test_additional_sites_are_a_family_of_their_own(tuned: MakeRun) -> None:
    found = runs_of(tuned("a", pretrained=None), tuned("b", synthetic=SET), tuned("c", extra_manifests=["x.csv"]))
    assert len(families(found)) == 3
    assert RANDOM not in families(found)[1]
    assert families(found)[2].endswith("with additional sites")


def test_the_interval_is_that_of_a_normal_difference() -> None:
    """Of two normal intervals the one that textbooks have, with the deviations in quadrature."""
    one, other = Estimate(0.8, 0.74, 0.86), Estimate(0.7, 0.62, 0.78)
    found = difference(one, other)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.0, 0.2))
    turned = difference(other, one)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-0.1, -0.2, 0.0))


def test_asymmetric_intervals_have_their_coverage() -> None:
    """Of shares of few patients near 1, where intervals are lopsided."""
    draw, n, truth = np.random.default_rng(0), 60, (0.93, 0.88)

    def interval(share: float) -> Estimate:
        middle = (share + 2 / n) / (1 + 4 / n)  # Wilson
        half = 2 / (1 + 4 / n) * np.sqrt(share * (1 - share) / n + 1 / n**2)
        return Estimate(share, middle - half, middle + half)

    held = 0
    for one, other in zip(*(draw.binomial(n, p, 2000) / n for p in truth), strict=True):
        found = difference(interval(one), interval(other))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth[0] - truth[1] <= found.high
    assert 0.94 < held / 2000 < 0.98


def test_without_a_bootstrap_there_is_no_interval_and_no_tone(tuned: MakeRun) -> None:
    folders = tuned("without"), tuned("with", synthetic=SET)
    for folder in folders:
        scores = json.loads((folder / "scores.json").read_text())
        for score in (*scores["sites"].values(), scores["pooled"]):
            for name in ("auroc", "balanced_accuracy"):
                score[name] |= {"low": None, "high": None}
        (folder / "scores.json").write_text(json.dumps(scores))
    (pair,) = pairs(runs_of(*folders))
    assert {(gain.points.low, gain.tone) for _, gains, _ in pair.rows for gain in gains if gain} == {(None, "")}


def test_the_page_shows_gains_only_with_a_set(tuned: MakeRun, tmp_path: Path) -> None:
    bare, low = tuned("without", pooled=0.5), tuned("low", pooled=0.4, seed=2)
    text = write_comparison([bare, tuned("with", pooled=0.9, synthetic=SET)], tmp_path / "a.html").read_text()
    assert "Gain from a synthetic set" in text
    assert '<td class="n good">+40.0 (+33.6 to +46.4)</td>' in text
    assert "Gain from a synthetic set" not in write_comparison([bare, low], tmp_path / "b.html").read_text()
