from __future__ import annotations

import pytest

from fedcore.data.manifest.columns import Columns, parse_header


def messages(header: str, columns: Columns = Columns()) -> str:  # noqa: B008
    found = parse_header(header.split(","), columns)
    return "\n".join([*found.errors, *found.warnings])


def test_a_record_has_the_default_names() -> None:
    header = parse_header(["Site", "File", "extra"], Columns(image="file"))
    assert not header.errors
    assert header.record(["north", "a.png"]) == {
        "image": "a.png", "site": "north", "split": "", "label": "", "mask": "", "patient": "", "position": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("path,site", "column 'image' is missing; if it is 'path', set data.columns.image path (for data "
         "check: --columns.image path), or rename it"),
        ("image,hospital", "if it is 'hospital', set data.columns.site hospital"),
        ("image_path,site", "if it is 'image_path', set"),
        ("image|site|split", "columns are separated by comma, semicolon or tab"),
        ("image,site,patient_id", "unknown column 'patient_id'; did you mean 'patient'? Rename it, or set "
         "data.columns.patient patient_id"),
        ("image,site,pid", "column 'pid' is ignored; if it contains the patient, set data.columns.patient pid"),
        ("image,site,class", "if it contains the label, set data.columns.label class"),
        ("image,site,site", "column 'site' occurs 2 times"),
        ("image,site,spilt", "unknown column 'spilt'; did you mean 'split'?"),
    ],
)  # fmt: skip
def test_misnamed_columns_have_a_suggestion(header: str, text: str) -> None:
    assert text in messages(header)


def test_a_column_with_the_default_name_needs_no_suggestion() -> None:
    assert messages("image,site,label,class") == "columns ignored: 'class'"


def test_column_names_that_do_not_fit_are_an_error() -> None:
    assert "column 'patient' is missing; data.columns.patient is 'pid'" in messages(
        "image,site", Columns(patient="pid")
    )
    assert "uses column 'image' twice" in messages("image,site", Columns(mask="image"))


def test_columns_without_a_name_are_ignored() -> None:
    assert messages(",image,site,") == ""
