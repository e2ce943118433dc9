"""Choice of the weights and the size of FedVSS's virtual samples on validation images, for docs/results.md.

    python -m benchmarks.experiments.fedvss --data FOLDER        # continues a stopped run; FOLDER is not read

Half of the training patients of every simulated hospital of benchmarks.experiments.synthesis are for validation, and a
fifth of the labels of the other half are used: as many as a tenth of all. No test image is used. An experiment is a
setting and a seed; every run is a folder under checkpoints/virtual, and a finished one is not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.experiments import synthesis
from benchmarks.experiments.driver import Driver, Experiment, finished_run
from benchmarks.experiments.fedvss_tables import DATASET, SCORES, SETTINGS
from benchmarks.experiments.results import Result

RUNS = Path("checkpoints/virtual")
SEEDS = (0, 1)


def experiments() -> Iterator[Experiment]:
    yield from (Experiment(DATASET, setting, seed) for seed in SEEDS for setting in SETTINGS)


def measure(experiment: Experiment, folder: Path) -> list[Result]:
    choice = zip(("lambda_l", "lambda_g", "eps"), SETTINGS[experiment.variant], strict=True)
    virtual = json.dumps([{"class_path": "fedgen.federated.fedvss.FedVSS", "init_args": dict(choice)}])
    run = finished_run(
        "finetune", "fedvss", RUNS / str(experiment), "--data.manifest", str(_validation(folder)), "--data.size", "32",
        "--encoder.init_args.stem", "8", "--visit.max_epochs", "1000", "--visit.max_steps", "40",
        "--rounds.count", "6", "--label_fraction", "0.2", "--policy.min_patients", "1", "--seed", str(experiment.seed),
        "--visit.callbacks", virtual,
    )  # fmt: skip
    pooled = json.loads((run / "scores.json").read_text())["pooled"]
    return [Result(str(experiment), score, pooled[score]["value"]) for score in SCORES]


def _validation(folder: Path) -> Path:
    """The manifest of the training images, where every second patient of a site is a validation patient."""
    rows = [row for row in synthesis.rows_of(synthesis.manifest_of("phantom", folder)) if row["split"] == "train"]
    validation = {
        patient
        for site in {row["site"] for row in rows}
        for patient in sorted({row["patient"] for row in rows if row["site"] == site})[::2]
    }
    split = [row | {"split": "test" if row["patient"] in validation else "train"} for row in rows]
    return synthesis.write_manifest(RUNS / "validation.csv", split)


if __name__ == "__main__":
    Driver("benchmarks.experiments.fedvss", __doc__ or "", RUNS, experiments, measure).main()
