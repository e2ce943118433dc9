from __future__ import annotations

import pytest

from fedcore.data.manifest.columns import Columns, header_of


def told(header: str, columns: Columns = Columns()) -> str:  # noqa: B008
    found = header_of(header.split(","), columns)
    return "\n".join([*found.errors, *found.notes])


def test_a_record_has_our_names_whatever_the_files_are() -> None:
    header = header_of(["Site", "File", "extra"], Columns(image="file"))
    assert not header.errors
    assert header.record(["north", "a.png"]) == {
        "image": "a.png", "site": "north", "split": "", "label": "", "mask": "", "patient": "", "position": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("path,site", "column 'image' is missing; 'path' may be it: set data.columns.image path (of data check: "
         "--columns.image path), or rename it"),
        ("image,hospital", "'hospital' may be it: set data.columns.site hospital"),
        ("image_path,site", "'image_path' may be it"),
        ("image|site|split", "columns are set apart by comma, semicolon or tab"),
        ("image,site,patient_id", "column 'patient_id' is unknown; did you mean 'patient'? Rename it, or set "
         "data.columns.patient patient_id"),
        ("image,site,pid", "column 'pid' is ignored; if it holds what we call patient, set data.columns.patient pid"),
        ("image,site,class", "if it holds what we call label, set data.columns.label class"),
        ("image,site,site", "column 'site' stands 2 times"),
        ("image,site,spilt", "column 'spilt' is unknown; did you mean 'split'?"),
    ],
)  # fmt: skip
def test_what_may_be_meant(header: str, text: str) -> None:
    assert text in told(header)


def test_a_column_that_is_known_by_our_name_has_no_rival() -> None:
    assert told("image,site,label,class") == "columns ignored: 'class'"


def test_names_that_cannot_be_followed() -> None:
    assert "column 'patient' is missing; data.columns.patient asks for 'pid'" in told(
        "image,site", Columns(patient="pid")
    )
    assert "takes column 'image' for two things" in told("image,site", Columns(mask="image"))


def test_columns_without_a_name_are_no_fault() -> None:
    assert told(",image,site,") == ""
