"""Several findings an image, from a label cell to columns of 0 and 1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedcore.data.cohort import Cohort
from fedcore.data.dataset import AddedImages, Images
from fedcore.data.findings import findings_of, is_multi_label, normalise_label, with_findings
from fedcore.data.fingerprint import fingerprint
from fedcore.data.loader import loader
from fedcore.data.source import Data
from fedcore.errors import InputErrors, Refused

CELLS = ("Effusion|Mass", "Mass", "No Finding", "", "Mass | Effusion", "Nodule|Effusion", "no finding", "Effusion")


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Two sites of four images each; the fourth is not labelled."""
    lines = ["image,site,split,label"]
    for at, cell in enumerate(CELLS):
        np.save(tmp_path / f"{at}.npy", np.random.default_rng(at).random((16, 16)).astype(np.float32))
        lines.append(f"{at}.npy,s{at // 4},train,{cell}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return Data(str(tmp_path / "manifest.csv"), 16, test_fraction=0.0, cache=tmp_path / "cache").load()


def test_from_the_manifest_to_columns(cohort: Cohort) -> None:
    names = findings_of(cohort.classes)
    assert names == ("Effusion", "Mass", "Nodule")
    taken = with_findings(cohort, names)
    assert taken.classes == names
    told = [i.findings.tolist() for i in taken.sites.values() if i.findings is not None]
    assert told == [[[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], [[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0]]]
    assert taken.sites["s0"].labels[3] == -1  # not labelled, which is not the same as nothing found


def test_the_order_in_a_cell_does_not_matter(cohort: Cohort) -> None:
    assert normalise_label("Mass | Effusion|Mass|") == "Effusion|Mass"
    assert cohort.sites["s0"].labels[0] == cohort.sites["s1"].labels[0]


@pytest.mark.parametrize("cell", ["Mass", "", "No Finding", "two words, a comma; a semicolon"])
def test_a_cell_of_one_class_is_as_it_was(cell: str) -> None:
    assert normalise_label(cell) == cell


def test_classes_without_a_set_are_findings_but_for_the_one_that_is_none() -> None:
    assert not is_multi_label(("none", "ring"))
    assert findings_of(("none", "ring", "star")) == ("ring", "star")


def test_a_set_that_holds_nothing_and_something_is_refused() -> None:
    with pytest.raises(InputErrors, match=r"'Mass\|No Finding' says that there is a finding and that there is none"):
        findings_of(("Effusion|Mass", "Mass|No Finding"))


def test_findings_that_are_not_known_are_refused_and_known_ones_may_lack(cohort: Cohort) -> None:
    with pytest.raises(InputErrors, match="'Nodule' is none of Effusion, Mass"):
        with_findings(cohort, ("Effusion", "Mass"))
    more = with_findings(cohort, ("Edema", "Effusion", "Mass", "Nodule")).sites["s0"].findings
    assert more is not None
    assert more.tolist()[0] == [0, 1, 1, 0]


def test_companions_are_taken_apart_too_and_join_the_batches(cohort: Cohort) -> None:
    sites = {s: replace(i, added=AddedImages(cohort.sites["s1"], 0.5)) for s, i in cohort.sites.items()}
    taken = with_findings(replace(cohort, sites=sites), findings_of(cohort.classes))
    pixels, findings = next(iter(loader(taken.sites["s0"], 4, True, targets="findings")))
    assert len(pixels) == len(findings) == 8
    known = {tuple(row): image for row, image in zip(findings.tolist(), pixels, strict=True)}
    assert {(1, 1, 0), (0, 1, 0)} < set(known)


def test_parts_keep_their_findings(cohort: Cohort) -> None:
    images = with_findings(cohort, findings_of(cohort.classes)).sites["s1"]
    part = images.take([3, 1])
    assert part.targets("findings", [0, 1]).tolist() == [[1, 0, 0], [1, 0, 1]]


def test_images_without_findings_say_so(cohort: Cohort) -> None:
    with pytest.raises(Refused, match="not taken apart into findings"):
        cohort.sites["s0"].targets("findings", [0])


def test_the_fingerprint_is_that_of_the_labels_as_they_are_written(cohort: Cohort) -> None:
    taken = with_findings(cohort, findings_of(cohort.classes))
    assert fingerprint(replace(taken, classes=cohort.classes)) == fingerprint(cohort)
    assert isinstance(taken.sites["s0"], Images)
