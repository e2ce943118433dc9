from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcore.data.describe import describe, fingerprint
from fedcore.data.phantom import Phantoms
from fedcore.data.source import Data
from fedcore.data.synthetic import Synthetic
from fedcore.errors import InputError


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A set that passed its audit: four pictures of the classes lesion and z."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    lines = ["image,site,split,label"]
    for at in range(4):
        np.save(folder / f"{at}.npy", np.random.default_rng(at).random((16, 16)).astype(np.float32))
        lines.append(f"{at}.npy,synthetic,train,{'lz'[at % 2]}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    (folder / "audit.json").write_text(json.dumps({"passes": True}))
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
    assert not cohort.notes


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
    joined = fingerprint(replace(data, further=(str(manifest),)).load())
    assert len({alone, accompanied, joined}) == 3
    assert accompanied.partition("+")[0] == joined.partition("+")[0] == alone


@pytest.mark.parametrize("place", ["further", "synthetic"])
@pytest.mark.parametrize(("audit", "what"), [(None, "nobody has audited"), ("{}", "nobody has audited"),
                                             ('{"passes": false}', "did not pass its audit")])  # fmt: skip
def test_a_set_that_has_not_passed_is_refused_unless_forced(
    drawn: Path, tmp_path: Path, place: str, audit: str | None, what: str
) -> None:
    (drawn.parent / "audit.json").unlink()
    if audit:
        (drawn.parent / "audit.json").write_text(audit)
    how = {"further": (str(drawn),)} if place == "further" else {"synthetic": Synthetic(str(drawn))}
    data = replace(hospitals(tmp_path), **how)
    with pytest.raises(InputError, match=f"{what}; first: fedpretrain generate audit .*data.unaudited true"):
        data.load()
    (note,) = describe(replace(data, unaudited=True).load())["notes"]
    assert note == f"a synthetic set that {what} was taken all the same"


def test_what_does_not_suit_is_refused(drawn: Path, tmp_path: Path) -> None:
    data = replace(hospitals(tmp_path), synthetic=Synthetic(str(drawn)))
    rows = drawn.read_text()
    drawn.write_text(rows.replace("3.npy,synthetic", "3.npy,other"))
    with pytest.raises(InputError, match=r"takes a set of one site, .* has 2 \(other, synthetic"):
        data.load()
    drawn.write_text(rows.replace(",train,", ",test,"))
    with pytest.raises(InputError, match="no image whose split is train"):
        data.load()
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 1.5"):
        Synthetic(str(drawn), 1.5)
