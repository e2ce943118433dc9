from __future__ import annotations

import pytest

from fedcore.errors import InputError, InputErrors, building


def test_errors_are_listed_up_to_a_limit() -> None:
    text = str(InputErrors("m.csv", [f"row {i}" for i in range(5)], "Fix them.", shown=3))
    assert text == "m.csv: 5 errors\n  row 0\n  row 1\n  row 2\n  ... and 2 more\nFix them."
    assert str(InputErrors("m.csv", ["row 1"])) == "m.csv: 1 error\n  row 1"


def test_errors_of_a_constructor_become_input_errors() -> None:
    with pytest.raises(InputError, match="the bank cannot be built: capacity must be at least 1"), building("the bank"):
        raise ValueError("capacity must be at least 1")
    with pytest.raises(KeyError), building("the bank"):
        raise KeyError("another error")
