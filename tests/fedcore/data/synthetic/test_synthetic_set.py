from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcore.data.describe import describe, fingerprint
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.data.synthetic.synthetic_set import Standing, Synthetic, digest_of, standing
from fedcore.errors import InputError
from tests.fedcore.audits import write_audit
from tests.fedcore.data.synthetic.test_release_criteria import GOOD, SOUND


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A set that passed its audit: four pictures of the classes lesion and z."""
    folder = tmp_path / "drawn"
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


def test_a_set_accompanies_every_site_and_none_is_added(drawn: Path, tmp_path: Path) -> None:
    data = hospitals(tmp_path)
    alone, cohort = data.load(), replace(data, synthetic=Synthetic(str(drawn), share=0.25)).load()
    assert list(cohort.sites) == ["hospital_1", "hospital_2"]
    assert cohort.classes == tuple(sorted((*alone.classes, "l", "z")))
    for name, images in cohort.split("train").items():
        assert images.companions is not None
        assert images.companions.share == 0.25
        assert [cohort.classes[k] for k in images.companions.images.labels] == ["l", "z", "l", "z"]
        own = alone.sites[name].select("train")
        assert torch.equal(images.batch(range(len(images))), own.batch(range(len(own))))
        assert [cohort.classes[k] for k in images.labels] == [alone.classes[k] for k in own.labels]
    assert cohort.notes == (
        "images of synthetic have classes that no image of the run's own manifest has: l, z; classes are matched by "
        "name",
    )


def test_a_resumed_run_notices_another_set(drawn: Path, tmp_path: Path) -> None:
    data = hospitals(tmp_path)
    shares = [fingerprint(replace(data, synthetic=Synthetic(str(drawn), share)).load()) for share in (0.25, 0.5)]
    assert len({fingerprint(data.load()), *shares}) == 3


def test_runs_with_and_without_a_set_are_on_the_same_images(tmp_path: Path) -> None:
    """Where the set brings no class of its own."""
    manifest = Phantoms(sites=1, images_per_site=8, test_fraction=0.0, seed=3).write(tmp_path / "more", 16)
    manifest.write_text(manifest.read_text().replace(",hospital_1,", ",elsewhere,"))
    data = hospitals(tmp_path)
    alone = fingerprint(data.load())
    accompanied = fingerprint(replace(data, synthetic=Synthetic(str(manifest))).load())
    joined = fingerprint(replace(data, extra_manifests=(str(manifest),)).load())
    assert len({alone, accompanied, joined}) == 3
    assert accompanied.partition("+")[0] == joined.partition("+")[0] == alone


def forge(drawn: Path) -> None:
    (drawn.parent / "audit.json").write_text(json.dumps({"passes": True}))


def turn(drawn: Path) -> None:
    """The same figures, and the other verdict."""
    told = json.loads((drawn.parent / "audit.json").read_text())
    told["sites"]["hospital_1"]["membership_auc"] = 0.9
    (drawn.parent / "audit.json").write_text(json.dumps(told))


def change_an_image(drawn: Path) -> None:
    np.save(drawn.parent / "2.npy", np.random.default_rng(9).integers(0, 256, (16, 16), np.uint8))


def change_a_label(drawn: Path) -> None:
    drawn.write_text(drawn.read_text().replace("synthetic,train,z", "synthetic,train,l"))


CASES: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda drawn: (drawn.parent / "audit.json").unlink(),
        "without an audit that can be relied on: audit.json is miss",
    ),
    (forge, "without an audit that can be relied on: audit.json is no whole record"),
    (turn, "without an audit that can be relied on: audit.json contradicts itself"),
    (change_an_image, "not the one that was audited: its files have changed"),
    (change_a_label, "not the one that was audited: its files have changed"),
    (lambda drawn: write_audit(drawn, set="another"), "not the one that was audited"),
    (lambda drawn: write_audit(drawn, sites={"a": GOOD | {"membership_auc": 0.9}}), "failed its privacy check"),
]


@pytest.mark.parametrize("place", ["extra_manifests", "synthetic"])
@pytest.mark.parametrize(("change", "what"), CASES)
def test_a_set_that_no_audit_found_private_is_refused_unless_forced(
    drawn: Path, tmp_path: Path, place: str, change: Callable[[Path], object], what: str
) -> None:
    change(drawn)
    how = {"extra_manifests": (str(drawn),)} if place == "extra_manifests" else {"synthetic": Synthetic(str(drawn))}
    data = replace(hospitals(tmp_path), **how)
    with pytest.raises(InputError, match=f"{what}[^;]*; first: fedpretrain generate audit .*data.allow_unaudited true"):
        data.load()
    (note,) = _notes_but_classes(replace(data, allow_unaudited=True))
    assert what in note
    assert note.endswith("was taken all the same")
    assert str(tmp_path) not in note


@pytest.mark.parametrize(("figures", "answer"), [({"tstr": 0.3}, "no, because a classifier of its images"),
                                                 (None, "not measured, because no features")])  # fmt: skip
def test_a_set_that_is_not_fit_for_use_is_trained_on_with_a_note(
    drawn: Path, tmp_path: Path, figures: dict[str, float] | None, answer: str
) -> None:
    write_audit(drawn, sites={"a": SOUND if figures is None else GOOD | figures})
    data = replace(hospitals(tmp_path), synthetic=Synthetic(str(drawn)))
    (note,) = _notes_but_classes(data)
    assert note.startswith(f"the synthetic set is trained on, fit for use: {answer}")


def test_a_release_is_held_to_the_digest_of_its_own_files(drawn: Path) -> None:
    write_audit(drawn, set="of the set it was made of", released=digest_of(drawn))
    assert standing(drawn, ["synthetic"]) == Standing()
    change_an_image(drawn)
    assert "changed" in standing(drawn, ["synthetic"]).doubt


def test_a_run_says_from_how_many_labels_the_generator_of_its_set_learned(drawn: Path) -> None:
    write_audit(drawn, label_fraction=0.1)
    assert standing(drawn, ["synthetic"]).note == (
        "the generator of the synthetic set learned from 0.1 of the labels; do not compare with runs on fewer labels "
        "that use no set"
    )
    assert standing(drawn, ["synthetic"]).doubt == ""


def test_images_of_hospitals_have_no_standing(tmp_path: Path) -> None:
    assert standing(tmp_path / "manifest.csv", ["hospital_1"]) == Standing()


def test_a_digest_hangs_on_rows_files_and_settings_and_not_on_the_place(drawn: Path, tmp_path: Path) -> None:
    first = digest_of(drawn)
    assert digest_of(Path(shutil.copytree(drawn.parent, tmp_path / "copy")) / "manifest.csv") == first
    (drawn.parent / "set.json").write_text("{}")
    second = digest_of(drawn)
    change_an_image(drawn)
    third = digest_of(drawn)
    change_a_label(drawn)
    assert len({first, second, third, digest_of(drawn)}) == 4
    (drawn.parent / "1.npy").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        digest_of(drawn)


def test_what_does_not_suit_is_refused(drawn: Path, tmp_path: Path) -> None:
    data = replace(hospitals(tmp_path), synthetic=Synthetic(str(drawn)))
    data = replace(data, allow_unaudited=True)
    rows = drawn.read_text()
    drawn.write_text(rows.replace("3.npy,synthetic", "3.npy,other"))
    with pytest.raises(InputError, match=r"takes a set of one site, .* has 2 \(other, synthetic"):
        data.load()
    drawn.write_text(rows.replace(",train,", ",test,"))
    with pytest.raises(InputError, match="no image whose split is train"):
        data.load()
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 1.5"):
        Synthetic(str(drawn), 1.5)


def _notes_but_classes(data: Data) -> list[str]:
    """What a run notes, beside the classes that the set alone has."""
    return [note for note in describe(data.load())["notes"] if "have classes that no image" not in note]
