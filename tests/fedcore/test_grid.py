from __future__ import annotations

from rich.console import Console

from fedcore.grid import grid

ROWS = {"a hospital with a long name": ["0.812 (0.79-0.83)", "40"], "all": ["-", "80"]}


def lines(width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as caught:
        console.print(grid("site", ["balanced accuracy of all", "images"], ROWS))
    return caught.get().splitlines()


def test_names_are_at_the_left_and_figures_at_the_right() -> None:
    head, first, last = lines(100)
    assert head.split() == ["site", "balanced", "accuracy", "of", "all", "images"]
    assert first.startswith("a hospital with a long name  ")
    assert first.endswith(" 0.812 (0.79-0.83)      40")
    assert last.endswith("-      80")


def test_where_room_is_short_names_break_and_figures_do_not() -> None:
    found = lines(44)
    assert any("0.812 (0.79-0.83)" in line for line in found)
    assert max(map(len, found)) <= 44
    assert not any("a hospital with a long name" in line for line in found)
