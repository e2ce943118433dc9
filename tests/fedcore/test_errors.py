from __future__ import annotations

from fedcore.errors import Faults


def test_all_faults_are_told_up_to_a_limit() -> None:
    text = str(Faults("m.csv", [f"row {i}" for i in range(5)], "Mend them.", shown=3))
    assert text == "m.csv: 5 faults\n  row 0\n  row 1\n  row 2\n  ... and 2 more\nMend them."
    assert str(Faults("m.csv", ["row 1"])) == "m.csv: 1 fault\n  row 1"
