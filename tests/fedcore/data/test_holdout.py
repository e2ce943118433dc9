from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.data.holdout import held_out_patients
from fedcore.data.manifest.row import Row


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
