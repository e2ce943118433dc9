"""Pages that compare runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.errors import InputError
from fedcore.report import write_comparison, write_report
from tests.fedcore.report.compared_runs import MakeRun, runs_to_compare
from tests.fedcore.report.page_reader import read


def test_a_comparison_has_its_sections(make_run: MakeRun, write_scores: Callable[..., None]) -> None:
    folders = runs_to_compare(make_run, write_scores)
    page = write_comparison(folders)
    assert page == folders[0].parent / "comparison.html"
    reader = read(page)
    for expected in (
        "Comparison of 5 runs", "moco_0.1", "finetune", "SimCLR", "random initialisation", "0.760", "0.710 to 0.800",
        "FEATURES feature vectors of single images", "Balanced accuracy by labels", "AUROC by labels",
        "Balanced accuracy by upload",
        "1 min 21 s", "1.5 MB",
    ):  # fmt: skip
        assert expected in reader.text, expected
    assert "img" not in reader.tags
    assert "Before you compare" not in reader.text


def test_a_comparison_of_whatever_is_there(make_run: MakeRun, full_run: Path) -> None:
    killed = make_run("killed", status="running", rounds=5, planned=20)
    (killed / "rounds.jsonl").write_text((killed / "rounds.jsonl").read_text()[:-40])
    bare = make_run("bare", rounds=0)
    for name in ("run.json", "recipe.yaml", "environment.json"):
        (bare / name).unlink()
    text = read(write_comparison([killed, bare, full_run])).text
    assert "killed: The last line of rounds.jsonl was cut off" in text
    assert "bare: run.json is missing" in text
    assert "shared-bank-simclr" in text
    assert "Comparison of 3 runs" in read(write_comparison([bare, bare, bare])).text


def test_no_text_of_compared_runs_becomes_markup(make_run: MakeRun, write_scores: Callable[..., None]) -> None:
    evil = '<img src=x onerror="alert(1)"><script>'
    folder = make_run("<i>one", command=evil, status=evil)
    (folder / "recipe.yaml").write_text(f"method: '{evil}'\nexchange: {{class_path: '{evil}'}}\n")
    write_scores(folder, encoder=evil)
    reader = read(write_comparison([folder, make_run("two")]))
    assert reader.text.count("<script>") >= 4
    assert not reader.tags & {"img", "i"}


def test_a_comparison_holds_no_absolute_path(make_run: MakeRun, write_scores: Callable[..., None]) -> None:
    folder = make_run(error="/clinic/Jane Doe/x.png is empty")
    write_scores(folder, encoder="/clinic/Jane Doe/moco")
    page = write_comparison([folder, make_run("other")]).read_text()
    assert "Doe" not in page
    assert str(folder.parent) not in page


def test_only_a_page_of_the_same_kind_is_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    one, other = make_run("a"), make_run("b")
    write_report(one)
    with pytest.raises(InputError, match="exists and is not a comparison page; choose another file with --out"):
        write_comparison([one, other], one / "report.html")
    page = write_comparison([one, other], tmp_path / "deep" / "page.html")
    assert write_comparison([one, other], page) == page
    with pytest.raises(InputError, match="is not a report page"):
        write_report(one, out=page)
    (one / "report.html").write_text("an older version's page")
    assert "Finished" in read(write_report(one)).text
