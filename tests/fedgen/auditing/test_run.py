from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.data.dataset import Images
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.data.synthetic.release_criteria import LEAST_HELD, LEAST_RATE
from fedcore.errors import InputError
from fedcore.models.encoder_store import save_encoder
from fedcore.models.encoders import ResNet
from fedcore.models.features import embed
from fedgen.auditing import run as inspection
from fedgen.auditing.membership import LEAST as LEAST_MEMBERS
from fedgen.auditing.moments import Moments, frechet
from fedgen.auditing.quality import coverage, kernel_distance
from fedgen.auditing.run import inspect
from fedgen.auditing.tstr import tstr
from fedgen.copies.copies import LEAST
from fedgen.generator import Conditions
from fedgen.synthetic.image_files import encoded
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedgen.conftest import HOSPITALS


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_encoder(tmp_path / "encoder", ResNet(2, 1, depth=10, stem=2).eval(), {}, "a card")


def plant(folder: Path, at: int, site: str, which: int) -> None:
    """A patient's image among the drawn ones."""
    image = HOSPITALS.load().split("train")[site].batch([which])[0]
    (folder / "images" / f"{at:06d}.png").write_bytes(encoded(image)[0])


def test_a_set_without_copies_is_safe_and_every_site_is_told_of(one_run: Path, drawn: Path) -> None:
    found = inspect(one_run, drawn)
    assert (found.images, found.copies, found.encoder, found.quality) == (64, {}, None, {})
    assert set(found.sites) == {"hospital_1", "hospital_2"}
    assert all((told["trained"], told["held_out"]) == (120, 40) for told in found.sites.values())
    assert all("tpr" not in told and 0 <= told["auc"] <= 1 for told in found.sites.values())  # 1 % of 40 is no image
    written = json.loads((drawn / "audit.json").read_text())
    assert (written["safe"]["answer"], written["useful"]["answer"]) == (found.safe.answer, found.useful.answer)
    assert written["set"] == SyntheticSet.open(drawn).digest()
    assert found.useful.answer == "not measured"  # without an encoder
    assert AuditRecord.read(drawn) == found


def test_planted_copies_are_named_with_the_site_they_are_of(one_run: Path, drawn: Path, encoder: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    plant(drawn, 40, "hospital_2", 11)
    found = inspect(one_run, drawn, encoder)
    assert found.copies.keys() >= {"000005.png", "000040.png"}
    assert ("hospital_1" in found.copies["000005.png"], "hospital_2" in found.copies["000040.png"]) == (True, True)
    assert found.safe.answer == "no"
    without = inspect(one_run, drawn, left_out=[5, 40])
    assert (without.images, without.left_out, without.copies) == (62, [5, 40], {})


def test_the_worse_view_of_membership_counts(
    one_run: Path, drawn: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To this encoder no held-out image looks like a drawn one; to pixels all do."""

    def far(network: Any, images: Images, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = embed(network, images, count, device)
        return (-features if len(images) == 40 else features), labels

    monkeypatch.setattr("fedgen.auditing.audit.embed", far)
    for told in inspect(one_run, drawn, encoder).sites.values():
        assert told["auc_by_pixels"] < 0.8
        assert told["auc"] == told["auc_by_features"] > 0.99


def test_figures_are_those_of_all_features_together(one_run: Path, drawn: Path, encoder: Path) -> None:
    from fedcore.models.encoder_store import build_encoder

    found, network = inspect(one_run, drawn, encoder), build_encoder(encoder).eval()
    looked, cohort = SyntheticSet.open(drawn), HOSPITALS.load()
    known = Conditions(cohort.classes, tuple(cohort.sites))
    with torch.inference_mode():
        features = network(looked.pixels().float())
        trained = {site: network(images.batch(range(120))) for site, images in cohort.split("train").items()}
    whole = frechet(Moments.of(torch.cat(list(trained.values()))), Moments.of(features))
    assert found.quality["all"] == {"fid": pytest.approx(whole, rel=1e-6), "held_out_fid": None}  # 64 drawn, 80 held
    theirs = torch.tensor([i.site_style == "hospital_2" for i in looked.images])
    own = features[theirs]
    told = found.sites["hospital_2"]
    assert told["kid"] == pytest.approx(kernel_distance(trained["hospital_2"], own), abs=1e-6)
    recall = coverage(trained["hospital_2"], own)["recall"]  # the fewer, so all of them
    assert told["recall"] == pytest.approx(recall, rel=1e-5)
    held = cohort.sites["hospital_2"].select("test")
    labels = torch.tensor([known.class_index(i.label) for i in looked.images])[theirs]
    real = cohort.sites["hospital_2"].select("train")
    with torch.inference_mode():
        learned = tstr(own, labels, trained["hospital_2"], real.labels, network(held.batch(range(40))), held.labels)
    assert {name: told[name] for name in learned} == pytest.approx(learned, rel=1e-5)
    assert found.quality["class clear"]["fid"] is None  # 16 images, 16 features: no covariance of full rank
    assert set(found.quality) == {"all", *(f"class {c}" for c in known.classes), "site hospital_1", "site hospital_2"}


def test_nothing_but_verdicts_and_numbers_leaves_a_site(one_run: Path, drawn: Path, encoder: Path) -> None:
    inspect(one_run, drawn, encoder)
    for site in ("hospital_1", "hospital_2"):
        lines = [json.loads(line) for line in (one_run / "sites" / site / "audit.jsonl").read_text().splitlines()]
        asked = [line for line in lines if line["field"] == "copies"][-1]
        assert (asked["shape"], asked["dtype"], asked["reveals"]) == ([2, 64], "bool", "FEATURES")
        assert {line["reveals"] for line in lines} == {"WEIGHTS", "STATISTICS", "FEATURES"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run": "nowhere"}, "takes a finished run of generate train"),
        ({"folder": "nowhere"}, "holds no synthetic set"),
        ({"encoder": Path("nowhere")}, "holds no encoder"),
        ({"overrides": ["--policy.max_level", "WEIGHTS"]}, "an audit needs metrics of the sites, which are STATISTICS"),
        ({"overrides": ["--policy.metrics", "false"]}, "an audit needs metrics of the sites"),
    ],
)
def test_what_does_not_fit_is_said(one_run: Path, drawn: Path, changed: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"run": one_run, "folder": drawn} | changed
    asked |= {key: Path(asked[key]) for key in ("run", "folder")}
    with pytest.raises(InputError, match=said):
        inspect(**asked)


def hold_out(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Of each site, so many at most."""
    held = inspection._held_out
    monkeypatch.setattr(inspection, "_held_out", lambda c: {s: i.take(np.arange(images)) for s, i in held(c).items()})


def test_few_held_out_images_give_no_figure_rather_than_a_wrong_one(
    one_run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_out(monkeypatch, 15)
    found = inspect(one_run, drawn)
    assert all("copies_by_pixels" not in told and "auc" not in told for told in found.sites.values())
    assert all("could not look for copies" in text for text in found.safe.because)


def test_the_gate_and_the_sites_count_alike() -> None:
    assert (LEAST_HELD, LEAST_RATE) == (LEAST, LEAST_MEMBERS)


def test_groups_are_counted_by_class_and_site(one_run: Path, drawn: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    found = inspect(one_run, drawn, left_out=[0, 1])
    image = SyntheticSet.open(drawn).images[5]
    assert found.groups["all"] == {"images": 62, "copies": 1, "left_out": 2}
    assert found.groups[f"class {image.label}"]["copies"] == 1
    assert found.groups[f"site {image.site_style}"]["copies"] == 1
    for kind in ("class ", "site "):
        parts = [counts for name, counts in found.groups.items() if name.startswith(kind)]
        assert {key: sum(part[key] for part in parts) for key in found.groups["all"]} == found.groups["all"]


@pytest.mark.parametrize(("level", "sees"), [(-1.0, False), (0.2, True)])
def test_images_of_one_brightness_are_not_useful_whatever_the_encoder(
    one_run: Path, drawn: Path, encoder: Path, level: float, sees: bool
) -> None:
    for file in (drawn / "images").iterdir():
        file.write_bytes(encoded(torch.full((1, 16, 16), level))[0])
    found = inspect(one_run, drawn, encoder if sees else None)
    assert found.useful.answer == "no"
    assert any("of one brightness" in text for text in found.useful.because)


def test_real_images_of_no_patient_trained_on_are_useful(
    one_run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A perfect generator, by an encoder that knows the classes' brightness."""
    more = replace(HOSPITALS, phantom=replace(HOSPITALS.phantom, seed=77)).load()
    lines = ["image,site,split,label,site_style,mask"]
    for at in range(128):
        site = f"hospital_{1 + at % 2}"
        image, label = more.sites[site].batch([at])[0], int(more.sites[site].labels[at])
        (drawn / "images" / f"{at:06d}.png").write_bytes(encoded(image)[0])
        lines.append(f"images/{at:06d}.png,synthetic,train,{more.classes[label]},{site},")
    (drawn / "manifest.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    eyes = save_encoder(tmp_path / "eyes", ResNet(2, 1, depth=10, stem=8).eval(), {}, "a card")
    found = inspect(one_run, drawn, eyes)
    assert found.useful.answer == "yes", found.useful
    assert found.sites["hospital_1"]["recall"] > 0.5


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
    held = inspection._held_out
    monkeypatch.setattr(inspection, "_held_out", lambda cohort: {"hospital_1": held(cohort)["hospital_1"]})
    found = inspect(one_run, drawn, encoder)
    assert "copies_by_pixels" in found.sites["hospital_1"]
    assert "copies_by_pixels" not in found.sites["hospital_2"]
    assert found.quality["site hospital_2"]["held_out_fid"] is None
    assert any(text.startswith("hospital_2 could not look for copies") for text in found.safe.because)
