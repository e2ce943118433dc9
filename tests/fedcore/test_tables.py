from __future__ import annotations

import pytest
from rich.console import Console

from fedcore.tables import terminal, text_table

ROWS = {"a hospital with a long name": ["0.812 (0.79-0.83)", "40"], "all": ["-", "80"]}


def lines(width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as caught:
        console.print(text_table("site", ["balanced accuracy of all", "images"], ROWS))
    return caught.get().splitlines()


def test_names_are_on_the_left_and_numbers_on_the_right() -> None:
    head, first, last = lines(100)
    assert head.split() == ["site", "balanced", "accuracy", "of", "all", "images"]
    assert first.startswith("a hospital with a long name  ")
    assert first.endswith(" 0.812 (0.79-0.83)      40")
    assert last.endswith("-      80")


def test_in_a_narrow_terminal_names_wrap_and_numbers_do_not() -> None:
    found = lines(44)
    assert any("0.812 (0.79-0.83)" in line for line in found)
    assert max(map(len, found)) <= 44
    assert not any("a hospital with a long name" in line for line in found)


def test_output_to_a_pipe_is_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = {f"hospital {n} {'of a long name ' * 4}": [f"0.{n}12 (0.10-0.90)"] * 6 for n in range(3)}
    terminal().print(text_table("site", [f"score {n}" for n in range(6)], rows))
    terminal().print("a note " * 40)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines[1:4]] == [
        f"{name.rstrip():<{max(map(len, rows))}}  {'  '.join(cells)}" for name, cells in rows.items()
    ]
    assert len(lines) == 5
