"""Regenerates the tables of docs/results.md from runs of the two recipes, cell by cell.

    python -m benchmarks.evidence --data ../shared/data

Every cell is a run folder under checkpoints/evidence; a finished one is not run again, an interrupted
one is resumed. With everything at its defaults two CPU cores take about an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS = Path("checkpoints/evidence")
PAGE = Path("docs/results.md")
BEGIN, END = "<!-- brain: begin -->", "<!-- brain: end -->"
ALONE = ["--algorithm", "fedcore.localonly.LocalOnly", "--exchange", "null"]
# No step is taken: the probe then sees the encoder as it was made.
UNTRAINED = ["--rounds.count", "1", "--visit.max_steps", "0", "--exchange", "null"]
VECTORS = ["--exchange", "fedssl.vectors.ShareVectors", "--exchange.wire", "int8", "--policy.at_most", "FEATURES"]


@dataclass(frozen=True)
class Start:
    """One row: how the encoder came about."""

    name: str
    title: str
    overrides: tuple[str, ...]

    def encoders(self, run: Path) -> list[Path]:
        """What fine-tuning starts from: one encoder, or one for each site that trained alone."""
        alone = sorted(run.glob("sites/*/encoder"))
        return alone or [run]


STARTS = (
    Start("random", "random init", tuple(UNTRAINED)),
    Start("local", "local SSL, each site alone", tuple(ALONE)),
    Start("none", "federated, no bank shared", ("--exchange", "null")),
    Start("vectors", "federated, bank of vectors", tuple(VECTORS)),
    Start("statistics", "federated, bank of statistics", ()),
)


def stage(command: str, recipe: str, out: Path, overrides: Sequence[str]) -> Path:
    about = out / "run.json"
    if not about.exists() or json.loads(about.read_text())["status"] != "finished":
        call = [sys.executable, "-m", "fedcore.cli", command, recipe, "--out", str(out), "--resume", "true", *overrides]
        print(" ".join(["fedpretrain", *call[3:]]), flush=True)
        subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    return out


def last_probe(run: Path) -> float:
    """kNN accuracy after the last round, over all sites' test images."""
    survey = json.loads((run / "rounds.jsonl").read_text().splitlines()[-1])["survey"].values()
    return sum(s["knn"] * s["images"] for s in survey) / sum(s["images"] for s in survey)


def traffic(run: Path) -> tuple[float, float, float]:
    """MB up a visit: weights, exchange; seconds of a run."""
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    visits = [site["up"] for r in rounds for site in r["sites"].values()]
    mean = {kind: sum(v[kind] for v in visits) / len(visits) / 1e6 for kind in ("weights", "exchange")}
    return mean["weights"], mean["exchange"], sum(r["seconds"] for r in rounds)


def tuned(run: Path) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((run / "scores.json").read_text())["pooled"]
    return scores


def row(start: Start, data: Sequence[str]) -> str:
    run = stage("pretrain", "moco_shared_bank", RUNS / start.name, [*start.overrides, *data])
    begins = start.encoders(run) if start.name != "random" else [None]
    scores = [
        tuned(stage("finetune", "classify", RUNS / f"{start.name}_tuned_{i}",
                    [*(["--start", str(begin)] if begin else []), *data]))
        for i, begin in enumerate(begins)
    ]  # fmt: skip
    up, exchanged, seconds = traffic(run)
    cells = [f"{last_probe(run):.3f}", *(cell(scores, key) for key in ("balanced_accuracy", "auroc"))]
    costs = ["-", "-", "-"] if start.name == "random" else [f"{up:.2f}", f"{exchanged:.3f}", f"{seconds:.0f}"]
    return f"| {start.title} | {' | '.join([*cells, *costs])} |"


def cell(scores: Sequence[dict[str, Any]], key: str) -> str:
    values = [s[key]["value"] for s in scores]
    low, high = (min(values), max(values)) if len(values) > 1 else (scores[0][key]["low"], scores[0][key]["high"])
    return f"{sum(values) / len(values):.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds brain_tumor_mri/")
    data = ["--data.manifest", str(parser.parse_args().data / "brain_tumor_mri" / "manifest.csv")]
    head = [
        "| encoder | kNN | balanced accuracy, 10 % labels | AUROC, 10 % labels | weights up, MB a visit "
        "| exchange up, MB a visit | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    table = "\n".join([*head, *(row(start, data) for start in STARTS)])
    print(table)
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
