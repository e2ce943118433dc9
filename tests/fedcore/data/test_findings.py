"""Several findings per image, from a label cell to columns of 0 and 1."""

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


def test_label_cells_become_columns(cohort: Cohort) -> None:
    names = findings_of(cohort.classes)
    assert names == ("Effusion", "Mass", "Nodule")
    split = with_findings(cohort, names)
    assert split.classes == names
    tables = [i.findings.tolist() for i in split.sites.values() if i.findings is not None]
    assert tables == [[[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], [[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0]]]
    assert split.sites["s0"].labels[3] == -1  # unlabelled, which differs from no finding


def test_the_order_in_a_cell_is_ignored(cohort: Cohort) -> None:
    assert normalise_label("Mass | Effusion|Mass|") == "Effusion|Mass"
    assert cohort.sites["s0"].labels[0] == cohort.sites["s1"].labels[0]


@pytest.mark.parametrize("cell", ["Mass", "", "No Finding", "two words, a comma; a semicolon"])
def test_a_cell_of_one_class_is_unchanged(cell: str) -> None:
    assert normalise_label(cell) == cell


def test_single_classes_are_findings_except_no_finding() -> None:
    assert not is_multi_label(("none", "ring"))
    assert findings_of(("none", "ring", "star")) == ("ring", "star")


def test_a_set_of_a_finding_and_no_finding_is_an_error() -> None:
    with pytest.raises(InputErrors, match=r"'Mass\|No Finding' contains a finding and a word for no finding"):
        findings_of(("Effusion|Mass", "Mass|No Finding"))


def test_unknown_findings_are_an_error_and_missing_ones_are_not(cohort: Cohort) -> None:
    with pytest.raises(InputErrors, match="'Nodule' is none of Effusion, Mass"):
        with_findings(cohort, ("Effusion", "Mass"))
    more = with_findings(cohort, ("Edema", "Effusion", "Mass", "Nodule")).sites["s0"].findings
    assert more is not None
    assert more.tolist()[0] == [0, 1, 1, 0]


def test_added_images_have_findings_in_the_batches(cohort: Cohort) -> None:
    sites = {s: replace(i, added=AddedImages(cohort.sites["s1"], 0.5)) for s, i in cohort.sites.items()}
    split = with_findings(replace(cohort, sites=sites), findings_of(cohort.classes))
    pixels, findings = next(iter(loader(split.sites["s0"], 4, True, targets="findings")))
    assert len(pixels) == len(findings) == 8
    known = {tuple(row): image for row, image in zip(findings.tolist(), pixels, strict=True)}
    assert {(1, 1, 0), (0, 1, 0)} < set(known)


def test_subsets_keep_their_findings(cohort: Cohort) -> None:
    images = with_findings(cohort, findings_of(cohort.classes)).sites["s1"]
    part = images.take([3, 1])
    assert part.targets("findings", [0, 1]).tolist() == [[1, 0, 0], [1, 0, 1]]


def test_images_without_findings_are_an_error(cohort: Cohort) -> None:
    with pytest.raises(Refused, match="labels were not split into findings"):
        cohort.sites["s0"].targets("findings", [0])


def test_the_fingerprint_is_that_of_the_labels(cohort: Cohort) -> None:
    split = with_findings(cohort, findings_of(cohort.classes))
    assert fingerprint(replace(split, classes=cohort.classes)) == fingerprint(cohort)
    assert isinstance(split.sites["s0"], Images)
