"""Markdown in which names of sites, classes and files stay text: they may hold what Markdown or HTML would act on."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ACTS = re.compile(r"[\\`*|~]|\](?=[(\[:])|(?<!\w)_|_(?!\w)")


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts that may be anybody's."""
    lines = [
        [plain(title) for title in titles],
        ["---"] * len(titles),
        *([plain(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"|{''.join(f' {cell} |' if cell else ' |' for cell in line)}" for line in lines)


def plain(text: str) -> str:
    """A text that is shown as it is, on one line."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _ACTS.sub(r"\\\g<0>", line)


def fenced(text: str, language: str) -> str:
    """A block of code, which no backticks in the text can end."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"
