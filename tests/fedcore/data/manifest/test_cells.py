from __future__ import annotations

import pytest

from fedcore.data.manifest.cells import cell_warnings, cleaned, format_rows, is_missing, whole
from fedcore.data.manifest.columns import NAMES


def record(**cells: str) -> dict[str, str]:
    return dict.fromkeys(NAMES, "") | cells


def test_all_missing_values_of_pandas_are_missing_values_here() -> None:
    """The list of `pandas.read_csv`, of its documentation."""
    words = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
             "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]  # fmt: skip
    assert all(map(is_missing, words))
    assert not any(map(is_missing, ["normal", "0", "No Finding", "nano", "unknown", "Nancy"]))


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("12.0", "12"),
        ("0.00", "0"),
        ("007.0", "007"),
        ("3,0", "3"),
        ("1.5", "1.5"),
        ("1.0.0", "1.0.0"),
        ("v2.0", "v2.0"),
    ],
)
def test_whole_numbers_lose_their_decimals(cell: str, number: str) -> None:
    assert whole(cell) == number


def test_cells_are_cleaned_and_paths_are_not() -> None:
    found = cleaned(record(image="nan", label=" 1.0 | 2", patient="12.0", site="1.0", mask="cafe\u0301.png"))
    assert found == record(image="", label="1|2", patient="12", site="1", mask="cafe\u0301.png")
    assert cleaned(record(label="none"))["label"] == "none"
    assert cleaned(record(patient="none"))["patient"] == ""


def test_warnings_count_cells_and_quote_none() -> None:
    records = [record(patient="1.23E+11", label="nan"), record(patient="", label="x"), record(patient="Doe", label="x")]
    warnings = "\n".join(cell_warnings(records, {"patient": 0, "label": 1}))
    assert "column 'label': 1 cell such as nan or N/A is read as empty" in warnings
    assert "column 'patient': 1 cell is empty; each of these images counts as a patient of its own" in warnings
    assert "column 'patient': 1 number such as 1.2E+11 is shortened by a spreadsheet" in warnings
    assert "Doe" not in warnings
    assert not cell_warnings([record(label="x")], {"label": 0})


def test_format_rows() -> None:
    assert format_rows([3]) == "row 3"
    assert format_rows([9, 3, 3]) == "rows 3, 9"
    assert format_rows(range(10)) == "rows 0, 1, 2, 3, 4 and 5 more"
