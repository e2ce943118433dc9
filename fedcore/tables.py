"""Tables in the terminal: names on the left, numbers on the right."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 1000
"""Columns of an output that is no terminal (a file, a pipe), so that nothing is cut there."""


def terminal() -> Console:
    """Where tables and warnings are printed: as wide as the terminal, or of full width in a file or pipe."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False)


def text_table(first: str, titles: Sequence[str], rows: Mapping[str, Sequence[str]], highlight: str = "") -> Table:
    """Rows of cells by name, the row `highlight` in bold; in a narrow terminal titles and names wrap, cells do not.

    Args:
        first: Title of the column of names.
        titles: Titles of the other columns.
        rows: Cells by name, one for each title.
        highlight: Name of the row in bold.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for at, title in enumerate(titles):
        table.add_column(title, justify="right", min_width=max((len(cells[at]) for cells in rows.values()), default=0))
    for name, cells in rows.items():
        table.add_row(name, *cells, style="bold" if name == highlight else None)
    return table
