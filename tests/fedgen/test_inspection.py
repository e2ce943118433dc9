from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.encoders import ResNet
from fedcore.errors import InputError
from fedcore.store import save_encoder
from fedgen.drawn import DrawnSet
from fedgen.generator import Known
from fedgen.inspection import inspect
from fedgen.moments import Moments, frechet
from fedgen.pictures import encoded
from fedgen.quality import coverage, kernel_distance
from tests.fedgen.conftest import HOSPITALS


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_encoder(tmp_path / "encoder", ResNet(2, 1, depth=10, stem=2).eval(), {}, "a card")


def plant(folder: Path, at: int, site: str, which: int) -> None:
    """A patient's image among the drawn ones."""
    image = HOSPITALS.load().split("train")[site].batch([which])[0]
    (folder / "images" / f"{at:06d}.png").write_bytes(encoded(image)[0])


def test_a_set_without_copies_passes_and_every_site_is_told_of(one_run: Path, drawn: Path) -> None:
    found = inspect(one_run, drawn)
    assert (found.images, found.copies, found.encoder, found.quality) == (64, {}, None, {})
    assert set(found.sites) == {"hospital_1", "hospital_2"}
    assert all((told["trained"], told["held_out"]) == (120, 40) for told in found.sites.values())
    assert all("tpr" not in told and 0 <= told["auc"] <= 1 for told in found.sites.values())  # 1 % of 40 is no image
    written = json.loads((drawn / "audit.json").read_text())
    assert written["passes"] == found.passes
    assert written["set"] == DrawnSet.open(drawn).digest()


def test_planted_copies_are_named_with_the_site_they_are_of(one_run: Path, drawn: Path, encoder: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    plant(drawn, 40, "hospital_2", 11)
    for eyes in (None, encoder):
        found = inspect(one_run, drawn, eyes)
        assert found.copies.keys() >= {"000005.png", "000040.png"}
        assert ("hospital_1" in found.copies["000005.png"], "hospital_2" in found.copies["000040.png"]) == (True, True)
        assert not found.passes
    without = inspect(one_run, drawn, left_out=[5, 40])
    assert (without.images, without.left_out, without.copies) == (62, [5, 40], {})


def test_figures_are_those_of_all_features_together(one_run: Path, drawn: Path, encoder: Path) -> None:
    from fedcore.store import build_encoder

    found, network = inspect(one_run, drawn, encoder), build_encoder(encoder).eval()
    looked, cohort = DrawnSet.open(drawn), HOSPITALS.load()
    known = Known(cohort.classes, tuple(cohort.sites))
    with torch.inference_mode():
        features = network(looked.pixels().float())
        trained = {site: network(images.batch(range(120))) for site, images in cohort.split("train").items()}
    whole = frechet(Moments.of(torch.cat(list(trained.values()))), Moments.of(features))
    assert found.quality["all"]["fid"] == pytest.approx(whole, rel=1e-6)
    own = features[torch.tensor([i.imitates == "hospital_2" for i in looked.images])]
    assert found.sites["hospital_2"]["kid"] == pytest.approx(kernel_distance(trained["hospital_2"], own), abs=1e-6)
    recall = coverage(trained["hospital_2"], own)["recall"]
    assert found.sites["hospital_2"]["recall"] == pytest.approx(recall, rel=1e-5)
    assert found.quality["class clear"]["fid"] is None  # 16 images, 16 features: no covariance of full rank
    assert set(found.quality) == {"all", *(f"class {c}" for c in known.classes), "site hospital_1", "site hospital_2"}


def test_nothing_but_verdicts_and_numbers_leaves_a_site(one_run: Path, drawn: Path, encoder: Path) -> None:
    inspect(one_run, drawn, encoder)
    for site in ("hospital_1", "hospital_2"):
        lines = [json.loads(line) for line in (one_run / "sites" / site / "audit.jsonl").read_text().splitlines()]
        asked = [line for line in lines if line["field"] == "copies"][-1]
        assert (asked["shape"], asked["dtype"], asked["reveals"]) == ([2, 64], "bool", "STATISTICS")
        assert {line["reveals"] for line in lines} == {"WEIGHTS", "STATISTICS"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run": "nowhere"}, "takes a finished run of generate train"),
        ({"folder": "nowhere"}, "holds no set of drawn images"),
        ({"encoder": Path("nowhere")}, "holds no encoder"),
        ({"overrides": ["--policy.at_most", "WEIGHTS"]}, "an audit needs metrics of the sites, which are STATISTICS"),
        ({"overrides": ["--data.phantom.images_per_site", "60"]}, None),
    ],
)
def test_what_does_not_fit_is_said(one_run: Path, drawn: Path, changed: dict[str, Any], said: str | None) -> None:
    asked: dict[str, Any] = {"run": one_run, "folder": drawn} | changed
    asked |= {key: Path(asked[key]) for key in ("run", "folder")}
    if said:
        with pytest.raises(InputError, match=said):
            inspect(**asked)
        return
    found = inspect(**asked)  # 15 held-out images a site: no figure rather than a wrong one
    assert all("copies_by_pixels" not in told and "auc" not in told for told in found.sites.values())
    assert all("could not look for copies" in text for text in found.objections)


def test_an_encoder_of_other_channels_is_refused(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    save_encoder(tmp_path / "colour", ResNet(2, 3, depth=10, stem=2), {}, "a card")
    with pytest.raises(InputError, match="does not fit the images: it takes channels 3, not 1"):
        inspect(one_run, drawn, tmp_path / "colour")


def test_a_set_that_lacks_an_image_is_refused(one_run: Path, drawn: Path) -> None:
    (drawn / "images" / "000003.png").unlink()
    with pytest.raises(InputError, match=r"lacks files that its manifest names, e.g. 000003.png"):
        inspect(one_run, drawn)


@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_manifest_that_leads_out_of_the_folder_is_refused(one_run: Path, drawn: Path, column: str) -> None:
    (drawn.parent / "patient.png").write_bytes((drawn / "images" / "000000.png").read_bytes())
    lines = (drawn / "manifest.csv").read_text().splitlines()
    at = lines[0].split(",").index(column)
    cells = lines[1].split(",")
    for name in ("../patient.png", str(drawn.parent / "patient.png")):
        cells[at] = name
        (drawn / "manifest.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
        with pytest.raises(InputError, match="names a file outside of its folder"):
            inspect(one_run, drawn)


def test_a_site_without_held_out_images_gives_no_figure_and_spoils_no_other(
    one_run: Path, drawn: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedgen import inspection

    held = inspection._held_out
    monkeypatch.setattr(inspection, "_held_out", lambda cohort: {"hospital_1": held(cohort)["hospital_1"]})
    found = inspect(one_run, drawn, encoder)
    assert "copies_by_pixels" in found.sites["hospital_1"]
    assert "copies_by_pixels" not in found.sites["hospital_2"]
    assert found.quality["site hospital_2"]["held_out_fid"] is None
    assert any(text.startswith("hospital_2 could not look for copies") for text in found.objections)
