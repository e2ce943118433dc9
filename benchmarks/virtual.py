"""Which weights and size of FedVSS's samples to take, by validation images: into docs/results.csv and docs/results.md.

    python -m benchmarks.virtual --data FOLDER        # goes on where it was stopped; FOLDER is not read

Half of the training patients of every phantom hospital of benchmarks.synthesis are validation images, and a fifth of
the labels of the other half are used: as many as a tenth of all. No test image is looked at. A cell is a choice and a
seed; every run stands under checkpoints/virtual, and a finished one is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks import synthesis
from benchmarks.cells import Cell, Driver, stage
from benchmarks.results import Result
from benchmarks.virtual_tables import CHOICES, DATA, SCORES

RUNS = Path("checkpoints/virtual")
SEEDS = (0, 1)


def cells() -> Iterator[Cell]:
    yield from (Cell(DATA, way, seed) for seed in SEEDS for way in CHOICES)


def measure(cell: Cell, folder: Path) -> list[Result]:
    choice = zip(("lambda_l", "lambda_g", "eps"), CHOICES[cell.way], strict=True)
    virtual = json.dumps([{"class_path": "fedgen.federated.fedvss.VirtualSamples", "init_args": dict(choice)}])
    run = stage(
        "finetune", "fedvss", RUNS / str(cell), "--data.manifest", str(_validation(folder)), "--data.size", "32",
        "--encoder.init_args.stem", "8", "--visit.max_epochs", "1000", "--visit.max_steps", "40",
        "--rounds.count", "6", "--label_fraction", "0.2", "--policy.min_patients", "1", "--seed", str(cell.seed),
        "--visit.callbacks", virtual,
    )  # fmt: skip
    pooled = json.loads((run / "scores.json").read_text())["pooled"]
    return [Result(str(cell), score, pooled[score]["value"]) for score in SCORES]


def _validation(folder: Path) -> Path:
    """The training images alone, of which every other patient of a site is a validation one."""
    rows = [row for row in synthesis.rows_of(synthesis.manifest_of("phantom", folder)) if row["split"] == "train"]
    held = {
        patient
        for site in {row["site"] for row in rows}
        for patient in sorted({row["patient"] for row in rows if row["site"] == site})[::2]
    }
    split = [row | {"split": "test" if row["patient"] in held else "train"} for row in rows]
    return synthesis.written(RUNS / "validation.csv", split)


if __name__ == "__main__":
    Driver("benchmarks.virtual", __doc__ or "", RUNS, cells, measure).main()
