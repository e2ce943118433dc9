"""A table in the terminal: names at the left, figures at the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table


def grid(first: str, titles: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for title in titles:
        table.add_column(title, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table
