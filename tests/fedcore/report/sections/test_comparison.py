"""Several runs compared: names, families, bytes, and what makes a comparison unfair."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.report.naming import RANDOM
from fedcore.report.read.reader import read_run
from fedcore.report.sections.comparison import (
    ComparedRun,
    compared,
    efficiency_charts,
    families,
    probe_chart,
    probe_traffic,
    score_traffic,
    warnings,
)

MakeRun = Callable[..., Path]
MakeTuned = Callable[..., Path]

RECIPE = """
method: {class_path: fedssl.methods.moco.MoCo, init_args: {}}
algorithm: null
exchange: {class_path: fedssl.bank.statistics.ShareStatistics}
"""


@pytest.fixture
def make_tuned(make_run: MakeRun, write_scores: Callable[..., None]) -> MakeTuned:
    """`make_tuned(name, fraction=..., encoder=..., pooled=...)` writes a fine-tuned run."""

    def make(name: str, **scores: object) -> Path:
        folder = make_run(name, command="finetune", rounds=2)
        (folder / "recipe.yaml").write_text("classifier: fedtune.classification.classifier.Classifier\n")
        write_scores(folder, **scores)
        return folder

    return make


def runs_of(*folders: Path) -> tuple[ComparedRun, ...]:
    return compared([read_run(folder) for folder in folders])


def test_the_recipe_names_method_algorithm_and_exchange(make_run: MakeRun, make_tuned: MakeTuned) -> None:
    folder = make_run("moco")
    (folder / "recipe.yaml").write_text(RECIPE)
    one, other = runs_of(folder, make_tuned("tuned", encoder=None))
    assert (one.method, one.algorithm, one.exchange, one.start) == ("MoCo", "FedAvg", "ShareStatistics", "")
    assert (other.method, other.algorithm, other.exchange, other.start) == ("Classifier", "FedAvg", "", RANDOM)


@pytest.mark.parametrize("text", ["", "[", "- 1", "method: 3", "method: {class_path: [x]}"])
def test_a_recipe_that_cannot_be_read_names_nothing_wrong(make_run: MakeRun, text: str) -> None:
    folder = make_run()
    (folder / "recipe.yaml").write_text(text)
    (entry,) = runs_of(folder)
    assert entry.exchange == ""


def test_runs_of_one_name_get_unique_names(make_run: MakeRun) -> None:
    folders = [make_run(name) for name in ("a/run", "b/run", "c")]
    assert [entry.name for entry in runs_of(*folders)] == ["a/run", "b/run", "c"]
    assert [entry.name for entry in runs_of(folders[2], folders[2])] == ["c (1)", "c (2)"]


@pytest.mark.parametrize(
    ("encoder", "start"),
    [
        ("checkpoints/moco", "moco"),
        ("checkpoints/moco/encoder", "moco"),
        ("/far/moco/sites/hospital_2/encoder", "moco, local at hospital_2"),
        ("encoder", "encoder"),
        ("", RANDOM),
        (None, RANDOM),
    ],
)
def test_starts_have_short_names(make_tuned: MakeTuned, encoder: str | None, start: str) -> None:
    (entry,) = runs_of(make_tuned("tuned", encoder=encoder))
    assert entry.start == start


def test_label_efficiency_groups_by_start_over_fractions(make_tuned: MakeTuned) -> None:
    found = runs_of(
        make_tuned("a", encoder="x/moco", fraction=0.01, pooled=0.8),
        make_tuned("b", encoder="x/moco", fraction=1.0, pooled=0.9),
        make_tuned("c", encoder=None, fraction=0.01, pooled=0.6),
    )
    accuracy, auroc = efficiency_charts(found)
    assert (accuracy.title, auroc.title) == ("Balanced accuracy by labels", "AUROC by labels")
    assert [(series.name, len(series.marks)) for series in accuracy.series] == [("moco", 2), (RANDOM, 1)]
    assert families(found) == ["moco", RANDOM]
    cheap, full = auroc.series[0].marks
    assert full.y < cheap.y < auroc.series[1].marks[0].y
    assert "moco, 1 % of the labels: 0.800 (a)" in cheap.label


def test_a_score_without_a_positive_fraction_is_not_shown(make_tuned: MakeTuned) -> None:
    assert efficiency_charts(runs_of(make_tuned("a", fraction=0.0), make_tuned("b", fraction=-1.0))) == ()


def test_bytes_are_means_over_sites(make_run: MakeRun) -> None:
    (entry,) = runs_of(make_run(rounds=12))
    assert entry.upload == 1_500_016
    assert entry.total_upload == 12 * 1_500_016


def test_the_traffic_of_a_tuned_run_counts_its_pretraining(make_run: MakeRun, make_tuned: MakeTuned) -> None:
    found = runs_of(make_run("moco"), make_tuned("a", encoder="x/moco"), make_tuned("b", encoder=None))
    chart = score_traffic(found)
    assert chart is not None
    assert [series.name for series in chart.series] == ["moco", RANDOM]
    assert "21 MB" in chart.series[0].marks[0].label
    assert "3 MB" in chart.series[1].marks[0].label
    assert score_traffic(found[1:]) is None  # the pretraining's bytes are not known


def test_the_traffic_of_tuned_runs_is_shown_at_the_fraction_that_most_starts_have(
    make_run: MakeRun, make_tuned: MakeTuned
) -> None:
    tuned = [make_tuned(f"m{f}", encoder="x/moco", fraction=f) for f in (0.01, 0.1, 1.0)]
    tuned += [make_tuned(f"r{f}", encoder=None, fraction=f) for f in (0.1, 1.0)]
    chart = score_traffic(runs_of(make_run("moco"), *tuned))
    assert chart is not None
    assert "With 10 % of the labels" in chart.caption
    assert [len(series.marks) for series in chart.series] == [1, 1]


def test_probes_have_one_line_per_run(make_run: MakeRun) -> None:
    found = runs_of(make_run("a"), make_run("b"), make_run("none", rounds=2))
    chart = probe_chart(found)
    assert chart is not None
    assert [line.site for line in chart.lines] == ["a", "b"]
    traffic = probe_traffic(found)
    assert traffic is not None
    assert len(traffic.series) == 2
    assert probe_chart(found[2:]) is None
    assert probe_traffic(found[:1]) is None


def test_an_unfair_comparison_is_reported(make_run: MakeRun) -> None:
    folders = [make_run("a", data="x"), make_run("b", data="y", status="running"), make_run("c", data="x")]
    (folders[2] / "environment.json").unlink()
    found = warnings(runs_of(*folders))
    assert found[0].startswith("The runs used different images")
    assert found[1] == "1 run did not finish: b. Last recorded state shown."
    assert found[2] == "c: environment.json is missing."
    assert warnings(runs_of(folders[0])) == []


def test_masks_of_several_grids_are_not_ranked(make_tuned: MakeTuned) -> None:
    folders = [make_tuned(name) for name in "abc"]
    for folder, grid in zip(folders, ("files", "32 x 32", ""), strict=True):
        scores = json.loads((folder / "scores.json").read_text())
        (folder / "scores.json").write_text(json.dumps(scores | {"grid": grid}))
    assert any("measured on different grids" in warning for warning in warnings(runs_of(*folders)))
    assert not any("grid" in warning for warning in warnings(runs_of(*folders[1:])))


def test_runs_of_unknown_images_give_no_warning(make_run: MakeRun) -> None:
    folder = make_run("old")
    about = json.loads((folder / "run.json").read_text())
    assert "data" not in about
    assert warnings(runs_of(folder, make_run("new", data="x"))) == []
