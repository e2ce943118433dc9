from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.synthetic import release_criteria
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.errors import InputError
from fedcore.models.encoder_store import save_encoder
from fedcore.models.features import embed
from fedcore.models.resnet import ResNet
from fedgen.auditing import membership
from fedgen.auditing.moments import Moments, frechet
from fedgen.auditing.quality import kernel_distance, prdc
from fedgen.auditing.run import audit
from fedgen.auditing.tstr import tstr
from fedgen.copies import copies
from fedgen.generator import Conditions
from fedgen.synthetic.image_files import encoded
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedgen.conftest import HOSPITALS


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save_encoder(tmp_path / "encoder", ResNet(2, 1, depth=10, stem=2).eval(), {}, "a card")


def plant(folder: Path, at: int, site: str, which: int) -> None:
    """Puts a patient's image into a synthetic set."""
    image = HOSPITALS.load().split("train")[site].batch([which])[0]
    (folder / "images" / f"{at:06d}.png").write_bytes(encoded(image)[0])


def test_a_set_without_copies_passes_and_the_record_holds_every_site(one_run: Path, drawn: Path) -> None:
    found = audit(one_run, drawn)
    assert (found.images, found.copies, found.encoder, found.quality) == (64, {}, None, {})
    assert set(found.sites) == {"hospital_1", "hospital_2"}
    assert all((site["training_images"], site["held_out_images"]) == (120, 40) for site in found.sites.values())
    assert all("membership_tpr" not in site for site in found.sites.values())  # 1 % of 40 is no image
    assert all(0 <= site["membership_auc"] <= 1 for site in found.sites.values())
    written = json.loads((drawn / "audit.json").read_text())
    assert (written["safe"]["answer"], written["useful"]["answer"]) == (found.safe.answer, found.useful.answer)
    assert written["set"] == SyntheticSet.open(drawn).digest()
    assert found.useful.answer == "not measured"  # without an encoder
    assert AuditRecord.read(drawn) == found


def test_planted_copies_are_named_with_their_site(one_run: Path, drawn: Path, encoder: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    plant(drawn, 40, "hospital_2", 11)
    found = audit(one_run, drawn, encoder)
    assert found.copies.keys() >= {"000005.png", "000040.png"}
    assert ("hospital_1" in found.copies["000005.png"], "hospital_2" in found.copies["000040.png"]) == (True, True)
    assert found.safe.answer == "no"
    without = audit(one_run, drawn, left_out=[5, 40])
    assert (without.images, without.left_out, without.copies) == (62, [5, 40], {})


def test_the_worse_membership_figure_counts(
    one_run: Path, drawn: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By features no held-out image is near a synthetic one; by pixels all are."""

    def far(network: Any, images: Images, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = embed(network, images, count, device)
        return (-features if len(images) == 40 else features), labels

    monkeypatch.setattr("fedgen.auditing.audit.embed", far)
    for site in audit(one_run, drawn, encoder).sites.values():
        assert site["membership_auc_by_pixels"] < 0.8
        assert site["membership_auc"] == site["membership_auc_by_features"] > 0.99


def test_figures_are_those_of_the_pooled_features(one_run: Path, drawn: Path, encoder: Path) -> None:
    from fedcore.models.encoder_store import build_encoder

    found, network = audit(one_run, drawn, encoder), build_encoder(encoder).eval()
    synthetic, cohort = SyntheticSet.open(drawn), HOSPITALS.load()
    conditions = Conditions(cohort.classes, tuple(cohort.sites))
    with torch.inference_mode():
        features = network(synthetic.pixels().float())
        training = {site: network(images.batch(range(120))) for site, images in cohort.split("train").items()}
    whole = frechet(Moments.of(torch.cat(list(training.values()))), Moments.of(features))
    assert found.quality["all"] == {
        "fid": pytest.approx(whole, rel=1e-6),
        "held_out_fid": None,
    }  # 64 synthetic, 80 held out
    theirs = torch.tensor([i.site_style == "hospital_2" for i in synthetic.images])
    own = features[theirs]
    metrics = found.sites["hospital_2"]
    assert metrics["kid"] == pytest.approx(kernel_distance(training["hospital_2"], own), abs=1e-6)
    recall = prdc(training["hospital_2"], own)["recall"]  # fewer than held-out images, so all of them
    assert metrics["recall"] == pytest.approx(recall, rel=1e-5)
    held_out = cohort.sites["hospital_2"].select("test")
    labels = torch.tensor([conditions.class_index(i.label) for i in synthetic.images])[theirs]
    real = cohort.sites["hospital_2"].select("train")
    with torch.inference_mode():
        expected = tstr(
            own, labels, training["hospital_2"], real.labels, network(held_out.batch(range(40))), held_out.labels
        )
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert found.quality["class clear"]["fid"] is None  # 16 images, 16 features: no covariance of full rank
    assert set(found.quality) == {
        "all",
        *(f"class {c}" for c in conditions.classes),
        "site hospital_1",
        "site hospital_2",
    }


def test_only_the_copies_and_figures_leave_a_site(one_run: Path, drawn: Path, encoder: Path) -> None:
    audit(one_run, drawn, encoder)
    for site in ("hospital_1", "hospital_2"):
        lines = [json.loads(line) for line in (one_run / "sites" / site / "audit.jsonl").read_text().splitlines()]
        found = [line for line in lines if line["field"] == "copies"][-1]
        assert (found["shape"], found["dtype"], found["reveals"]) == ([2, 64], "bool", "FEATURES")
        assert {line["reveals"] for line in lines} == {"WEIGHTS", "STATISTICS", "FEATURES"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"run": "nowhere"}, "takes a finished run of generate train"),
        ({"folder": "nowhere"}, "holds no synthetic set"),
        ({"encoder": Path("nowhere")}, "holds no encoder"),
        ({"overrides": ["--policy.max_level", "WEIGHTS"]}, "an audit needs metrics of the sites, which are STATISTICS"),
        ({"overrides": ["--policy.metrics", "false"]}, "an audit needs metrics of the sites"),
    ],
)
def test_an_error_names_what_does_not_fit(one_run: Path, drawn: Path, changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"run": one_run, "folder": drawn} | changed
    arguments |= {key: Path(arguments[key]) for key in ("run", "folder")}
    with pytest.raises(InputError, match=message):
        audit(**arguments)


def hold_out(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Reduces the held-out images of each site to that number."""
    held_out = Cohort.held_out
    monkeypatch.setattr(Cohort, "held_out", lambda c: {s: i.take(np.arange(images)) for s, i in held_out(c).items()})


def test_with_few_held_out_images_figures_are_missing(
    one_run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_out(monkeypatch, 15)
    found = audit(one_run, drawn)
    assert all("copies_by_pixels" not in site and "membership_auc" not in site for site in found.sites.values())
    assert all("could not search for copies" in text for text in found.safe.reasons)


def test_release_criteria_and_sites_need_equally_many_images() -> None:
    assert release_criteria.MIN_HELD_OUT == copies.MIN_HELD_OUT
    assert release_criteria.MIN_HELD_OUT_FOR_TPR == membership.MIN_HELD_OUT_FOR_TPR


def test_groups_are_counted_by_class_and_site(one_run: Path, drawn: Path) -> None:
    plant(drawn, 5, "hospital_1", 7)
    found = audit(one_run, drawn, left_out=[0, 1])
    image = SyntheticSet.open(drawn).images[5]
    assert found.groups["all"] == {"images": 62, "copies": 1, "left_out": 2}
    assert found.groups[f"class {image.label}"]["copies"] == 1
    assert found.groups[f"site {image.site_style}"]["copies"] == 1
    for kind in ("class ", "site "):
        parts = [counts for name, counts in found.groups.items() if name.startswith(kind)]
        assert {key: sum(part[key] for part in parts) for key in found.groups["all"]} == found.groups["all"]


@pytest.mark.parametrize(("level", "with_encoder"), [(-1.0, False), (0.2, True)])
def test_blank_images_are_not_useful_with_or_without_an_encoder(
    one_run: Path, drawn: Path, encoder: Path, level: float, with_encoder: bool
) -> None:
    for file in (drawn / "images").iterdir():
        file.write_bytes(encoded(torch.full((1, 16, 16), level))[0])
    found = audit(one_run, drawn, encoder if with_encoder else None)
    assert found.useful.answer == "no"
    assert any("of its images are blank" in text for text in found.useful.reasons)


def test_real_images_of_other_patients_are_useful(
    one_run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a perfect generator, by an encoder that sees the brightness of the classes."""
    more = replace(HOSPITALS, phantom=replace(HOSPITALS.phantom, seed=77)).load()
    lines = ["image,site,split,label,site_style,mask"]
    for at in range(128):
        site = f"hospital_{1 + at % 2}"
        image, label = more.sites[site].batch([at])[0], int(more.sites[site].labels[at])
        (drawn / "images" / f"{at:06d}.png").write_bytes(encoded(image)[0])
        lines.append(f"images/{at:06d}.png,synthetic,train,{more.classes[label]},{site},")
    (drawn / "manifest.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    encoder = save_encoder(tmp_path / "encoder", ResNet(2, 1, depth=10, stem=8).eval(), {}, "a card")
    found = audit(one_run, drawn, encoder)
    assert found.useful.answer == "yes", found.useful
    assert found.sites["hospital_1"]["recall"] > 0.5


def test_an_encoder_with_other_channels_is_an_error(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    save_encoder(tmp_path / "colour", ResNet(2, 3, depth=10, stem=2), {}, "a card")
    with pytest.raises(InputError, match="does not fit the images: it takes channels 3, not 1"):
        audit(one_run, drawn, tmp_path / "colour")


def test_a_set_with_a_missing_image_is_an_error(one_run: Path, drawn: Path) -> None:
    (drawn / "images" / "000003.png").unlink()
    with pytest.raises(InputError, match=r"lacks files that its manifest names, e.g. 000003.png"):
        audit(one_run, drawn)


@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_manifest_that_names_a_file_outside_of_the_folder_is_an_error(
    one_run: Path, drawn: Path, column: str
) -> None:
    (drawn.parent / "patient.png").write_bytes((drawn / "images" / "000000.png").read_bytes())
    lines = (drawn / "manifest.csv").read_text().splitlines()
    at = lines[0].split(",").index(column)
    cells = lines[1].split(",")
    for name in ("../patient.png", str(drawn.parent / "patient.png")):
        cells[at] = name
        (drawn / "manifest.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
        with pytest.raises(InputError, match="names a file outside of its folder"):
            audit(one_run, drawn)


def test_a_site_without_held_out_images_has_no_figures_and_the_others_have_theirs(
    one_run: Path, drawn: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = Cohort.held_out
    monkeypatch.setattr(Cohort, "held_out", lambda cohort: {"hospital_1": held_out(cohort)["hospital_1"]})
    found = audit(one_run, drawn, encoder)
    assert "copies_by_pixels" in found.sites["hospital_1"]
    assert "copies_by_pixels" not in found.sites["hospital_2"]
    assert found.quality["site hospital_2"]["held_out_fid"] is None
    assert any(text.startswith("hospital_2 could not search for copies") for text in found.safe.reasons)
