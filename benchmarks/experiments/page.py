"""docs/results.md: the parts between its markers are generated from docs/results.csv."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.experiments.distillation_tables import distillation_table
from benchmarks.experiments.fedvss_tables import settings_table
from benchmarks.experiments.finetuning_tables import SCORES, algorithm_table, label_efficiency_table
from benchmarks.experiments.pretraining_tables import (
    delta_table,
    family_table,
    main_table,
    plots,
    skew_table,
    structural_table,
)
from benchmarks.experiments.results import Results
from benchmarks.experiments.synthesis_tables import (
    SITES,
    augmentation_table,
    generator_table,
    message_size_table,
    synthetic_only_table,
)

PAGE = Path("docs/results.md")
PerDataset = Callable[[Results, str], list[str]]
SYNTHESIS: dict[str, PerDataset] = {
    "synthetic only": synthetic_only_table, "augmentation": augmentation_table, "generators": generator_table,
}  # fmt: skip
FINETUNING: dict[str, PerDataset] = {"labels": label_efficiency_table, "algorithms": algorithm_table}


def sections(results: Results) -> dict[str, list[str]]:
    """Name of a marker to the lines between its begin and end."""
    pretraining = {
        "pretraining brain": [*main_table(results, "brain"), *plots(results, "brain", "brain MRI")],
        "pretraining brain: deltas": delta_table(results, "brain"),
        "pretraining brain: methods": family_table(results),
        "pretraining brain: skew": skew_table(results),
        "pretraining hippocampus": structural_table(results),
        "pretraining cxr": [*main_table(results, "cxr"), *plots(results, "cxr", "chest X-ray")],
        "pretraining cxr: deltas": delta_table(results, "cxr"),
    }
    synthesis = {f"synthesis {d}: {part}": table(results, d) for part, table in SYNTHESIS.items() for d in SITES}
    finetuning = {f"finetuning {d}: {part}": table(results, d) for part, table in FINETUNING.items() for d in SCORES}
    others = {
        "synthesis: message size": message_size_table(results),
        "fedvss": settings_table(results),
        "distillation brain": distillation_table(results, "brain"),
        "distillation phantom": distillation_table(results, "phantom"),
    }
    return pretraining | synthesis | finetuning | others


def write_page(results: Results, page: Path = PAGE) -> None:
    """Replaces the parts of the page between its markers, and the plots."""
    text = page.read_text(encoding="utf-8")
    for name, lines in sections(results).items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        body = "\n".join([begin, *lines, end])
        before, *rest = re.split(re.escape(begin) + ".*?" + re.escape(end), text, flags=re.DOTALL)
        assert len(rest) == 1, f"{page} must contain the markers of {name!r} exactly once, found {len(rest)}"
        text = before + body + rest[0]
    page.write_text(text, encoding="utf-8")
