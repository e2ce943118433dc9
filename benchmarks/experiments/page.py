"""docs/results.md: what stands between its markers is made of docs/results.csv."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.experiments.distillation_tables import distilled_table
from benchmarks.experiments.fedvss_tables import choices_table
from benchmarks.experiments.finetuning_tables import SCORES, efficiency_table, ways_table
from benchmarks.experiments.results import (
    Results,
    delta_table,
    family_table,
    main_table,
    plots,
    skew_table,
    structural_table,
)
from benchmarks.experiments.synthesis_tables import SITES, alone_table, generator_table, price_table, together_table

PAGE = Path("docs/results.md")


def write_page(results: Results, page: Path = PAGE) -> None:
    """Replaces what stands between the markers of the page, and the plots."""
    parts: dict[str, Callable[[], list[str]]] = {
        "brain": lambda: [*main_table(results, "brain"), *plots(results, "brain", "brain MRI")],
        "brain deltas": lambda: delta_table(results, "brain"),
        "family": lambda: family_table(results),
        "skew": lambda: skew_table(results),
        "structural": lambda: structural_table(results),
        "cxr": lambda: [*main_table(results, "cxr"), *plots(results, "cxr", "chest X-ray")],
        "cxr deltas": lambda: delta_table(results, "cxr"),
        **{f"drawn {data}: alone": lambda data=data: alone_table(results, data) for data in SITES},
        **{f"drawn {data}: together": lambda data=data: together_table(results, data) for data in SITES},
        **{f"drawn {data}: generators": lambda data=data: generator_table(results, data) for data in SITES},
        "virtual": lambda: choices_table(results),
        "distilled brain": lambda: distilled_table(results, "brain"),
        "distilled phantom": lambda: distilled_table(results, "phantom"),
        "drawn: price": lambda: price_table(results),
        **{f"tuned {data}: labels": lambda data=data: efficiency_table(results, data) for data in SCORES},
        **{f"tuned {data}: ways": lambda data=data: ways_table(results, data) for data in SCORES},
    }
    text = page.read_text(encoding="utf-8")
    for name, make in parts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        body = "\n".join([begin, *make(), end])
        text, count = re.subn(
            re.escape(begin) + ".*?" + re.escape(end), lambda _, body=body: body, text, flags=re.DOTALL
        )
        assert count == 1, f"{page} must hold the markers of {name!r} once"
    page.write_text(text, encoding="utf-8")
