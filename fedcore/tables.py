"""Tables in the terminal: names at the left, figures at the right."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

_FULL = 1000
"""Columns of an output that is no terminal: a file or the next command, which nothing is cut for."""


def terminal() -> Console:
    """Where tables and notes are printed: as wide as the terminal, or as they are long where there is none."""
    return Console(width=None if sys.stdout.isatty() else _FULL, highlight=False, markup=False)


def grid(first: str, titles: Sequence[str], rows: Mapping[str, Sequence[str]], standing_out: str = "") -> Table:
    """Rows of cells by name, that of `standing_out` bold; where room is short titles and names break, cells do not."""
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for at, title in enumerate(titles):
        table.add_column(title, justify="right", min_width=max((len(cells[at]) for cells in rows.values()), default=0))
    for name, cells in rows.items():
        table.add_row(name, *cells, style="bold" if name == standing_out else None)
    return table
