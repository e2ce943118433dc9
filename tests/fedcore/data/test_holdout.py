from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedcore.data.holdout import held_out_patients
from fedcore.data.manifest.row import Row
from fedcore.data.partition import Dirichlet, Quantity
from fedcore.data.source import Data
from fedcore.errors import InputError
from tests.fedcore.data.test_source import hospital


def rows(site: str, *patients: str) -> list[Row]:
    """Two images per patient."""
    return [Row(2, Path("a.png"), site, "train", None, None, patient) for patient in patients for _ in range(2)]


@pytest.mark.parametrize(
    ("patients", "fraction", "count"), [(10, 0.2, 2), (2, 0.01, 1), (2, 0.99, 1), (1, 0.5, 0), (9, 0.0, 0)]
)
def test_a_fraction_of_patients_is_held_out_and_never_all(patients: int, fraction: float, count: int) -> None:
    names = [f"p{at}" for at in range(patients)]
    held_out = held_out_patients({"a": rows("a", *names)}, fraction, seed=0)
    assert len(held_out) == count
    assert held_out <= set(names)


def test_a_site_does_not_depend_on_the_others() -> None:
    one, two = rows("a", *"pqrstu"), rows("b", *"vwxyz")
    alone = held_out_patients({"a": one}, 0.3, seed=1)
    assert alone <= held_out_patients({"b": two, "a": one}, 0.3, seed=1)
    assert alone == held_out_patients({"a": one[::-1]}, 0.3, seed=1)


@pytest.mark.parametrize("partition", [None, Dirichlet(sites=2, min_images=4), Quantity(sites=2)])
def test_held_out_patients_are_in_the_test_split(tmp_path: Path, partition: Dirichlet | Quantity | None) -> None:
    plain = hospital(tmp_path, "image,site,label,patient")
    data = Data(plain.manifest, size=8, cache=plain.cache, partition=partition, test_fraction=1 / 3, seed=4)
    cohort = data.load()
    for images in cohort.sites.values():
        train, test = images.select("train"), images.select("test")
        assert len(train)
        assert len(test)
        assert not set(train.patients.tolist()) & set(test.patients.tolist())
    again = data.load()
    assert all((again.sites[site].splits == images.splits).all() for site, images in cohort.sites.items())
    if partition is None:
        assert [len(images.select("test")) for images in cohort.sites.values()] == [4, 4]


def test_a_test_fraction_of_0_holds_out_nobody(tmp_path: Path) -> None:
    plain = hospital(tmp_path, "image,site")
    cohort = Data(plain.manifest, size=8, cache=plain.cache, test_fraction=0.0).load()
    assert not cohort.split("test")
    with pytest.raises(InputError, match="test_fraction"):
        Data(plain.manifest, test_fraction=1.0).load()


def test_equal_patient_numbers_of_two_sites_are_two_patients_unless_global(tmp_path: Path) -> None:
    """With global numbers they are one patient, who is held out at both sites."""
    data = hospital(tmp_path, "image,site,patient")
    manifest = Path(data.manifest)
    lines = manifest.read_text().splitlines()
    manifest.write_text(
        "\n".join([lines[0], *(f"{line.rpartition(',p')[0]},p{at // 2 % 6}" for at, line in enumerate(lines[1:]))])
    )
    data = replace(data, test_fraction=1 / 3)
    own, shared = data.load().sites, replace(data, patients_are_global=True).load().sites
    assert not {*own["site_9"].patients} & {*own["site_10"].patients}
    assert {*shared["site_9"].patients} == {*shared["site_10"].patients}
    held = [{*images.select("test").patients} for images in shared.values()]
    assert held[0] == held[1]
    assert not any(held[0] & {*images.select("train").patients} for images in shared.values())
    for seed in range(3):  # assigned to one site, patients of the same number are still two
        assigned = replace(data, partition=Quantity(sites=1), seed=seed).load().sites["site_1"]
        assert len({*assigned.patients}) == 12
