"""An audit is of the run that drew the set and of the images that run has seen, or it is none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fedcore.data.phantom.phantoms import Phantoms
from fedcore.errors import InputError
from fedcore.runs.folder import RunFolder
from fedgen.auditing.run import audit
from fedgen.sampling import sample
from fedgen.synthetic.provenance import generators, require_origin, trained_on
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedgen.auditing.test_run import plant
from tests.fedgen.conftest import HOSPITALS
from tests.runs import seal


def test_a_set_names_its_generator_and_the_images_that_one_saw(one_run: Path, drawn: Path) -> None:
    settings = SyntheticSet.open(drawn).settings
    assert settings["generator"] == generators(one_run, [])["generator"]
    assert settings["data"] == RunFolder(one_run).about()["data"] == trained_on(one_run)["data"]
    assert settings["label_fraction"] == RunFolder(one_run).about()["label_fraction"] == 1.0


def test_copies_of_its_patients_do_not_pass_an_audit_by_another_run(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    """The set is asked of hospitals that never saw those images."""
    for at in range(5):
        plant(drawn, at, "hospital_1", at)
    other = Path(shutil.copytree(one_run, tmp_path / "other"))
    weights = other / "generator" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match=r"was not drawn by what .*other holds"):
        audit(other, drawn)
    assert audit(one_run, drawn).safe.answer == "no"


@pytest.mark.parametrize(
    "change", [["--data.phantom.images_per_site", "60"], ["--data.phantom.seed", "5"], ["--data.size", "20"]]
)
def test_other_images_are_refused(one_run: Path, drawn: Path, change: list[str]) -> None:
    with pytest.raises(InputError, match=r"these are not the images that .* was trained on"):
        audit(one_run, drawn, overrides=change)
    assert not (drawn / "audit.json").exists()


def test_a_run_json_that_names_other_images_than_the_set_is_refused(one_run: Path, drawn: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(one_run, tmp_path / "run"))
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"data": "0123"}))
    with pytest.raises(InputError, match=r"run\.json is corrupted, truncated or not what was written"):
        audit(run, drawn)
    seal(run)
    with pytest.raises(InputError, match=r"saw other images than run.json"):
        audit(run, drawn)


def test_the_same_images_at_another_place_are_the_same(tmp_path: Path) -> None:
    """`generate audit RUN SET --data.manifest NEW_PLACE`, with and without a column of patients."""
    from fedcore.data.describe import fingerprint

    manifest = Phantoms(sites=1, images_per_site=12, test_fraction=0.5).write(tmp_path / "here", 16)
    moved = Path(shutil.copytree(manifest.parent, tmp_path / "there")) / manifest.name
    places = [
        replace(HOSPITALS, manifest=str(path), cache=tmp_path / "cache", phantom=Phantoms())
        for path in (manifest, moved)
    ]
    assert fingerprint(places[0].load()) == fingerprint(places[1].load())


def test_a_set_of_one_sites_generator_is_of_the_run_that_holds_it(one_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(one_run, tmp_path / "run"))
    (run / "generator").rename(run / "sites" / "hospital_1" / "generator")
    sample(run / "sites" / "hospital_1", tmp_path / "set", 4, steps=2)
    settings = SyntheticSet.open(tmp_path / "set").settings
    assert settings["data"] == trained_on(run)["data"]
    require_origin(run, tmp_path / "set", settings, HOSPITALS.load())
    with pytest.raises(InputError, match="was not drawn by"):
        require_origin(run, tmp_path / "set", settings | {"generator": "0" * 64}, HOSPITALS.load())
