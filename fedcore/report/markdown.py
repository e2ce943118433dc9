"""Markdown with escaped names of sites, classes and files, which may hold characters of Markdown or HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"[\\`*|~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)")


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts from anywhere."""
    lines = [
        [plain(title) for title in titles],
        ["---"] * len(titles),
        *([plain(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"|{''.join(f' {cell} |' if cell else ' |' for cell in line)}" for line in lines)


def plain(text: str) -> str:
    """Escaped, so that the text is shown as it is, on one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\g<0>", line)


def fenced(text: str, language: str) -> str:
    """A block of code; backticks in the text cannot end it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"
