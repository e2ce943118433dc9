"""`fedpretrain demo`: the whole road on phantom hospitals, as the commands a user would type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.cli import dispatch, run_stage
from fedcore.errors import InputError
from fedcore.files import write_json
from fedcore.road import timed

USAGE = """usage: fedpretrain demo [--out checkpoints/demo]

Four phantom hospitals pretrain an encoder together without labels, then train a classifier from
10 % of their labels: from random weights, from what each hospital learned alone, from what they
learned together. Then they train a generator of images, audit what it draws and release it."""

ALONE = ["--algorithm", "fedcore.localonly.LocalOnly", "--exchange", "null"]
SCORES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "f1": "F1"}


@dataclass(frozen=True)
class Road:
    """Runs the stages under one folder; a stage that was finished before is not repeated."""

    folder: Path

    def stage(self, told: str, stage: str, recipe: str, name: str, *overrides: str) -> Path:
        out = self.folder / name
        with timed(told):
            run_stage(stage, [recipe, "--out", str(out), "--resume", "true", *overrides])
        return out

    def generate(self, told: str, *words: str | Path) -> None:
        with timed(told):
            dispatch("generate", list(map(str, words)))

    def tune(self, told: str, name: str, start: Path | None = None) -> dict[str, Any]:
        overrides = ["--start", str(start)] if start else []
        run = self.stage(told, "finetune", "demo_finetune", name, *overrides)
        scores: dict[str, Any] = json.loads((run / "scores.json").read_text(encoding="utf-8"))
        return scores["pooled"]


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case []:
            folder = Path("checkpoints/demo")
        case ["--out", path]:
            folder = Path(path)
        case ["-h" | "--help"]:
            print(USAGE)
            return 0
        case _:
            raise InputError(f"demo takes --out and nothing else\n{USAGE}")
    from fedcore.report import write_report

    print("Four phantom hospitals, four scanners, 600 unlabeled training images each.\n")
    road = Road(folder)
    together = road.stage("pretrain together, shared feature bank", "pretrain", "demo_pretrain", "together")
    alone = road.stage("pretrain, each hospital alone", "pretrain", "demo_pretrain", "alone", *ALONE)
    hospitals = sorted(path.name for path in (alone / "sites").iterdir())
    rows = {
        "random weights": [road.tune("classify with 10 % of labels, from random", "from_random")],
        "pretrained alone": [
            road.tune(f"  from {name} alone", f"from_{name}", alone / "sites" / name / "encoder") for name in hospitals
        ],
        "pretrained together": [road.tune("  from the federation", "from_together", together)],
    }
    table = _table(rows)
    write_json(together / "table.json", table)
    _show(table)
    print(f"\nreport: {write_report(together)}")
    print("\nA generator of images, by class and hospital; few rounds, so that the road is shown and no fine image.\n")
    _draw(road, together)
    return 0


def _draw(road: Road, encoder: Path) -> None:
    """Generator, set, audit, release."""
    run = road.stage("train a generator together", "generate train", "demo_generate", "generator")
    drawn, released = road.folder / "drawn", road.folder / "released"
    road.generate("draw 256 images", "sample", run, drawn, "--count", "256", "--steps", "20", "--resume", "true")
    road.generate("each hospital audits them", "audit", run, drawn, "--encoder", encoder)
    if not released.exists():
        try:
            road.generate("release what passed", "release", drawn, released, "--drop", "true")
        except InputError as e:
            print(f"\n{e}")
            return
    print(f"\nreleased: {released}, with a datasheet and contact sheets")


def _table(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    cells = [[start, *(_cell(scores, key) for key in SCORES)] for start, scores in rows.items()]
    return {
        "title": "A federated classifier from 10 % of the labels",
        "columns": ["start", *SCORES.values()],
        "rows": cells,
        "note": "Pooled over the hospitals' test images; in brackets 95 % bootstrap intervals over patients. "
        "Pretrained alone: the mean of one classifier per hospital's encoder, in brackets the lowest and highest.",
    }


def _cell(scores: Sequence[dict[str, Any]], key: str) -> str:
    values = [s[key]["value"] for s in scores]
    low, high = (min(values), max(values)) if len(values) > 1 else (scores[0][key]["low"], scores[0][key]["high"])
    return f"{sum(values) / len(values):.3f} ({low:.2f}-{high:.2f})"


def _show(table: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, title=table["title"], title_justify="left", title_style="bold")
    for at, column in enumerate(table["columns"]):
        grid.add_column(column, justify="right" if at else "left")
    for row in table["rows"]:
        grid.add_row(*row, style="bold" if row is table["rows"][-1] else None)
    console = Console(width=100)
    console.print()
    console.print(grid)
    console.print(f"[dim]{table['note']}[/dim]", width=78)
