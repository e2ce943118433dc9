"""The nearest pairs of an audit, which a site keeps in its own folder alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcore.data.synthetic.audit_record import with_digest
from fedcore.report import write_report
from fedcore.site.figure_files import MOST_PAIRS, NearestPairsFile
from fedcore.site.figures import thumbnails
from fedgen.auditing.nearest_pairs import Comparison, nearest_pairs
from fedgen.auditing.run import audit
from fedgen.copies.copies import detect_copies, nearest_by_features
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedgen.auditing.test_run import hold_out, plant
from tests.fedgen.conftest import HOSPITALS

FILE = NearestPairsFile.NAME


def kept(run: Path, site: str) -> dict[str, np.ndarray]:
    with np.load(run / "sites" / site / FILE, allow_pickle=False) as held:
        return {**held}


def test_the_closest_images_come_first_with_their_training_images() -> None:
    trained, drawn, held = (torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (40, 12, 25))
    drawn[7] = trained[31]
    near, other = (
        nearest_by_features(images.flatten(1), trained.flatten(1), torch.arange(40)) for images in (drawn, held)
    )
    view = Comparison(near, other, detect_copies(near.ratio, other.ratio))
    found = nearest_pairs({"pixels": view}, drawn, torch.arange(100, 112), lambda at: trained[at], "a set")
    order = sorted(range(12), key=lambda at: float(near.ratio[at]))[:MOST_PAIRS]
    assert order[0] == 7
    assert found["pixels_numbers"].tolist() == [100 + at for at in order]
    assert (found["pixels_synthetic"] == thumbnails(drawn[order])).all()
    assert (found["pixels_trained"][0] == thumbnails(trained[31:32])[0]).all()
    assert (found["pixels_closeness"] < found["pixels_limit"]).tolist() == view.copies.is_copy[order].tolist()
    assert [len(found[f"pixels_{name}_closeness"]) for name in ("synthetic", "held_out")] == [12, 25]
    assert str(found["set"]) == "a set"


def test_planted_copies_are_on_the_page_with_their_training_image_and_nowhere_else(one_run: Path, drawn: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    found = audit(one_run, drawn)
    original = thumbnails(HOSPITALS.load().split("train")["hospital_1"].batch([7]))
    first = kept(one_run, "hospital_1")
    assert int(first["pixels_numbers"][0]) == 5
    assert (first["pixels_trained"][0] == original[0]).all()
    assert str(first["set"]) == found.set == SyntheticSet.open(drawn).digest()
    assert (
        int((kept(one_run, "hospital_2")["pixels_closeness"] < kept(one_run, "hospital_2")["pixels_limit"]).sum()) == 0
    )
    assert {path.parent.parent.name for path in one_run.rglob(FILE)} == {"sites"}
    assert not list(drawn.rglob("*.npz"))
    for log in one_run.glob("sites/*/audit.jsonl"):
        assert not any("nearest" in line for line in log.read_text().splitlines())
    page = write_report(one_run, out=drawn / "page.html").read_text()
    assert "Privacy check failed." in page
    assert "1 of 64 images are copies of patients&#39; images (drop them)" in page
    assert page.count('alt="synthetic image 5"') >= 1


@pytest.mark.slow
def test_numbers_are_those_of_the_set_when_images_are_left_out(one_run: Path, drawn: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    plant(drawn, 9, "hospital_1", 8)
    audit(one_run, drawn, left_out=[2, 5])
    assert int(kept(one_run, "hospital_1")["pixels_numbers"][0]) == 9


@pytest.mark.slow
def test_the_run_keeps_the_last_audit_without_paths(one_run: Path, drawn: Path) -> None:
    audit(one_run, drawn)
    of_run = json.loads((one_run / "audit.json").read_text())
    of_set = json.loads((drawn / "audit.json").read_text())
    assert of_run == with_digest({key: value for key, value in of_set.items() if key != "options"} | {"name": "set"})
    assert str(drawn.parent) not in (one_run / "audit.json").read_text()


def test_a_site_of_too_few_images_keeps_no_pair(one_run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_out(monkeypatch, 15)
    audit(one_run, drawn)
    assert kept(one_run, "hospital_1")["views"].tolist() == []
    page = write_report(one_run, out=drawn / "page.html").read_text()
    assert "could not search for copies" in page
    assert "come nearest to a trained one" not in page
