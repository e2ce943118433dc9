from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcore.data.fingerprint import fingerprint
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.data.summary import summarize
from fedcore.data.synthetic.synthetic_set import AuditStatus, Synthetic, audit_status, digest_of
from fedcore.errors import InputError
from tests.fedcore.audits import write_audit
from tests.fedcore.data.synthetic.test_release_criteria import GOOD, SOUND


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A set that passed its audit: four pictures of the classes lesion and z."""
    folder = tmp_path / "set"
    folder.mkdir()
    lines = ["image,site,split,label"]
    for at in range(4):
        np.save(folder / f"{at}.npy", np.random.default_rng(at).integers(0, 256, (16, 16), np.uint8))
        lines.append(f"{at}.npy,synthetic,train,{'lz'[at % 2]}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    write_audit(folder / "manifest.csv")
    return folder / "manifest.csv"


def hospitals(tmp_path: Path) -> Data:
    return Data(size=16, phantom=Phantoms(sites=2, images_per_site=8), cache=tmp_path / "cache")


def test_a_set_is_mixed_in_at_every_site_and_adds_no_site(manifest: Path, tmp_path: Path) -> None:
    data = hospitals(tmp_path)
    alone, cohort = data.load(), replace(data, synthetic=Synthetic(str(manifest), fraction=0.25)).load()
    assert list(cohort.sites) == ["hospital_1", "hospital_2"]
    assert cohort.classes == tuple(sorted((*alone.classes, "l", "z")))
    for name, images in cohort.split("train").items():
        assert images.added is not None
        assert images.added.fraction == 0.25
        assert [cohort.classes[k] for k in images.added.images.labels] == ["l", "z", "l", "z"]
        own = alone.sites[name].select("train")
        assert torch.equal(images.batch(range(len(images))), own.batch(range(len(own))))
        assert [cohort.classes[k] for k in images.labels] == [alone.classes[k] for k in own.labels]
    assert cohort.warnings == (
        "images of synthetic have classes that no image of the run's own manifest has: l, z; classes are matched by "
        "name",
    )


def test_the_fingerprint_contains_the_set_and_its_fraction(manifest: Path, tmp_path: Path) -> None:
    data = hospitals(tmp_path)
    prints = [fingerprint(replace(data, synthetic=Synthetic(str(manifest), part)).load()) for part in (0.25, 0.5)]
    assert len({fingerprint(data.load()), *prints}) == 3


def test_the_fingerprint_of_the_own_images_does_not_depend_on_a_set(tmp_path: Path) -> None:
    """If the set has no other classes."""
    manifest = Phantoms(sites=1, images_per_site=8, test_fraction=0.0, seed=3).write(tmp_path / "more", 16)
    manifest.write_text(manifest.read_text().replace(",hospital_1,", ",elsewhere,"))
    data = hospitals(tmp_path)
    alone = fingerprint(data.load())
    mixed_in = fingerprint(replace(data, synthetic=Synthetic(str(manifest))).load())
    joined = fingerprint(replace(data, extra_manifests=(str(manifest),)).load())
    assert len({alone, mixed_in, joined}) == 3
    assert mixed_in.partition("+")[0] == joined.partition("+")[0] == alone


def forge(manifest: Path) -> None:
    (manifest.parent / "audit.json").write_text(json.dumps({"passes": True}))


def change_a_figure(manifest: Path) -> None:
    """The verdicts no longer follow from the figures."""
    record = json.loads((manifest.parent / "audit.json").read_text())
    record["sites"]["hospital_1"]["membership_auc"] = 0.9
    (manifest.parent / "audit.json").write_text(json.dumps(record))


def change_an_image(manifest: Path) -> None:
    np.save(manifest.parent / "2.npy", np.random.default_rng(9).integers(0, 256, (16, 16), np.uint8))


def change_a_label(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("synthetic,train,z", "synthetic,train,l"))


CASES: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda manifest: (manifest.parent / "audit.json").unlink(),
        "without a valid audit: audit.json is miss",
    ),
    (forge, "without a valid audit: audit.json is not a complete record"),
    (change_a_figure, "without a valid audit: audit.json contradicts itself"),
    (change_an_image, "not the audited one: its files have changed"),
    (change_a_label, "not the audited one: its files have changed"),
    (lambda manifest: write_audit(manifest, set="another"), "not the audited one"),
    (lambda manifest: write_audit(manifest, sites={"a": GOOD | {"membership_auc": 0.9}}), "failed its privacy check"),
]


@pytest.mark.parametrize("place", ["extra_manifests", "synthetic"])
@pytest.mark.parametrize(("change", "what"), CASES)
def test_a_set_without_a_passed_audit_is_an_error_unless_allowed(
    manifest: Path, tmp_path: Path, place: str, change: Callable[[Path], object], what: str
) -> None:
    change(manifest)
    how = (
        {"extra_manifests": (str(manifest),)} if place == "extra_manifests" else {"synthetic": Synthetic(str(manifest))}
    )
    data = replace(hospitals(tmp_path), **how)
    with pytest.raises(InputError, match=f"{what}[^;]*; run: fedpretrain generate audit .*data.allow_unaudited true"):
        data.load()
    (warning,) = _warnings_but_classes(replace(data, allow_unaudited=True))
    assert what in warning
    assert warning.endswith("is used (data.allow_unaudited)")
    assert str(tmp_path) not in warning


@pytest.mark.parametrize(("figures", "answer"), [({"tstr": 0.3}, "no, because a classifier trained on its images"),
                                                 (None, "not measured, because no features")])  # fmt: skip
def test_a_set_that_is_not_fit_for_use_has_a_warning(
    manifest: Path, tmp_path: Path, figures: dict[str, float] | None, answer: str
) -> None:
    write_audit(manifest, sites={"a": SOUND if figures is None else GOOD | figures})
    data = replace(hospitals(tmp_path), synthetic=Synthetic(str(manifest)))
    (warning,) = _warnings_but_classes(data)
    assert warning.startswith(f"the synthetic set is used for training; fit for use: {answer}")


def test_a_release_must_fit_the_digest_of_its_own_files(manifest: Path) -> None:
    write_audit(manifest, set="of the set it was made of", released=digest_of(manifest))
    assert audit_status(manifest, ["synthetic"]) == AuditStatus()
    change_an_image(manifest)
    assert "changed" in audit_status(manifest, ["synthetic"]).problem


def test_the_label_fraction_of_the_generator_is_a_warning(manifest: Path) -> None:
    write_audit(manifest, label_fraction=0.1)
    assert audit_status(manifest, ["synthetic"]).warning == (
        "the generator of the synthetic set learned from 0.1 of the labels; do not compare with runs on fewer labels "
        "that use no set"
    )
    assert audit_status(manifest, ["synthetic"]).problem == ""


def test_images_of_hospitals_have_no_audit_status(tmp_path: Path) -> None:
    assert audit_status(tmp_path / "manifest.csv", ["hospital_1"]) == AuditStatus()


def test_the_digest_depends_on_rows_files_and_settings_and_not_on_the_folder(manifest: Path, tmp_path: Path) -> None:
    first = digest_of(manifest)
    assert digest_of(Path(shutil.copytree(manifest.parent, tmp_path / "copy")) / "manifest.csv") == first
    (manifest.parent / "set.json").write_text("{}")
    second = digest_of(manifest)
    change_an_image(manifest)
    third = digest_of(manifest)
    change_a_label(manifest)
    assert len({first, second, third, digest_of(manifest)}) == 4
    (manifest.parent / "1.npy").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        digest_of(manifest)


def test_a_set_that_does_not_fit_is_an_error(manifest: Path, tmp_path: Path) -> None:
    data = replace(hospitals(tmp_path), synthetic=Synthetic(str(manifest)))
    data = replace(data, allow_unaudited=True)
    rows = manifest.read_text()
    manifest.write_text(rows.replace("3.npy,synthetic", "3.npy,other"))
    with pytest.raises(InputError, match=r"needs a set of one site, .* has 2 \(other, synthetic"):
        data.load()
    manifest.write_text(rows.replace(",train,", ",test,"))
    with pytest.raises(InputError, match="no image whose split is train"):
        data.load()
    with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\], got 1.5"):
        Synthetic(str(manifest), 1.5)


def _warnings_but_classes(data: Data) -> list[str]:
    """The warnings of a run, without that on classes that only the set has."""
    return [text for text in summarize(data.load())["notes"] if "have classes that no image" not in text]
