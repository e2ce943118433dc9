"""Classifiers trained on synthetic images, and their generators: results to docs/results.csv and docs/results.md.

    python -m benchmarks.experiments.synthesis --data FOLDER --jobs 2        # continues a stopped run
    python -m benchmarks.experiments.synthesis --data FOLDER --only brain/diffusion/0

FOLDER holds brain_tumor_mri/; the simulated hospitals are written to the folder of the runs. An experiment is a
dataset, a variant and a seed. For a generator: the hospitals train it, it generates 1,000 images, which are audited;
one classifier is trained on them alone and tested on real images of every site, another on real images with 10 % of the
labels and the synthetic images in every batch. Other variants are classifiers on real images. Every stage is a run
folder under checkpoints/synthesis; a finished one is not repeated.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.experiments.driver import Driver, Experiment, finished_run
from benchmarks.experiments.results import Result
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.runs.folder import RunFolder
from fedgen.auditing.run import audit
from fedgen.sampling import sample

RUNS = Path("checkpoints/synthesis")
SEEDS = (0, 1, 2)
SIZE, COUNT, STEPS = 32, 1000, 20
HOSPITALS = {"brain": 3, "phantom": 4}
STEPS_PER_VISIT = {"brain": 35, "phantom": 25}
"""Training steps of a generator per hospital and round: about a hundred over all hospitals."""
# The same number of steps for all training images, so that the images are the only difference.
FINETUNE = ("--visit.max_epochs", "1000", "--visit.max_steps", "60", "--rounds.count", "16",
            "--encoder.init_args.stem", "16")  # fmt: skip
DIFFUSION = ("--generator.init_args.network.init_args.widths", "[16,32,64]", "--visit.max_epochs", "1000",
             "--rounds.count", "30", "--visit.precision", "bf16-mixed", "--visit.compile", "true")  # fmt: skip

GAN = ("--generator.init_args.generator_network.init_args.widths", "[16,32,64,64]", "--visit.max_epochs", "1000",
       "--generator.init_args.discriminator.init_args.widths", "[16,32,64,64]", "--rounds.count", "50")  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """How a generator is trained."""

    recipe: str
    overrides: tuple[str, ...] = DIFFUSION
    pooled: bool = False
    """One site with all images, which trains for as many steps as all sites together."""
    quality_only: bool = False
    """Measures the quality of the images, and trains no classifiers on them."""


GENERATORS = {
    "gan": Variant("gan", GAN),
    "diffusion": Variant("diffusion", (*DIFFUSION, "--condition_on_site", "false")),
    "diffusion_by_site": Variant("diffusion"),
    "diffusion_central": Variant("diffusion", pooled=True, quality_only=True),
}
SMALL_MESSAGES = {
    "diffusion_int8": Variant(
        "diffusion_cheap",
        (*DIFFUSION, "--algorithm.init_args.algorithm", "fedcore.algorithms.fedavg.FedAvg"),
        quality_only=True,
    ),
    "diffusion_halves": Variant("diffusion_cheap", quality_only=True),
}
"""Generators with smaller messages: one seed, on the phantoms."""
REAL: dict[str, tuple[str, ...]] = {
    "real": ("--label_fraction", "1.0"),
    "real_10": ("--label_fraction", "0.1"),
}
"""Classifiers on the real images of all sites, with all or 10 % of the labels."""


def manifest_of(dataset: str, folder: Path) -> Path:
    if dataset == "brain":
        return folder / "brain_tumor_mri" / "manifest.csv"
    manifest = RUNS / "phantom_hospitals" / "manifest.csv"
    if not manifest.exists():
        Phantoms(sites=HOSPITALS["phantom"], images_per_site=400).write(manifest.parent, SIZE)
    return manifest


def experiments() -> Iterator[Experiment]:
    """The encoders first, since the quality of all generators of a dataset is measured with one encoder."""
    yield from (Experiment(dataset, "encoder", 0) for dataset in HOSPITALS)
    for seed in SEEDS:
        for dataset, hospitals in HOSPITALS.items():
            variants = [*REAL, *(f"alone_{number}" for number in range(1, hospitals + 1)), *GENERATORS]
            yield from (Experiment(dataset, variant, seed) for variant in variants)
    yield from (Experiment("phantom", variant, 0) for variant in SMALL_MESSAGES)


def measure(experiment: Experiment, folder: Path) -> list[Result]:
    """Executes the missing runs of the experiment and returns its results."""
    manifest, home = manifest_of(experiment.dataset, folder), RUNS / str(experiment)
    if experiment.variant == "encoder":
        _encoder(experiment.dataset, manifest)
        return []
    if variant := (GENERATORS | SMALL_MESSAGES).get(experiment.variant):
        return _generator_results(experiment, folder, variant)
    if experiment.variant in REAL:
        return _results(experiment, "", _classifier_scores(experiment, home, manifest, *REAL[experiment.variant]))
    rows = rows_of(manifest)
    site = f"hospital_{experiment.variant.removeprefix('alone_')}"
    own = [row for row in rows if row["split"] == "test" or row["site"] == site]
    local = write_manifest(home / "own.csv", own)
    return _results(experiment, "", _classifier_scores(experiment, home, local, "--label_fraction", "1.0"))


def synthetic_manifest(experiment: Experiment, folder: Path) -> Path:
    """Manifest of the synthetic images of the experiment's generator."""
    dataset, home = experiment.dataset, RUNS / str(experiment)
    variant = (GENERATORS | SMALL_MESSAGES)[experiment.variant]
    steps_per_visit = STEPS_PER_VISIT[dataset] * (HOSPITALS[dataset] if variant.pooled else 1)
    pooled = ("--data.partition", "fedcore.data.partition.Pooled") if variant.pooled else ()
    run = finished_run(
        "generate train", variant.recipe, home / "generate", "--data.manifest", str(manifest_of(dataset, folder)),
        "--data.size", str(SIZE), "--seed", str(experiment.seed), *variant.overrides,
        "--visit.max_steps", str(steps_per_visit), *pooled,
    )  # fmt: skip
    steps = None if variant.recipe == "gan" else STEPS
    return sample(run, home / "set", COUNT, steps=steps, resume=(home / "set").exists())


def _generator_results(experiment: Experiment, folder: Path, variant: Variant) -> list[Result]:
    manifest, home = manifest_of(experiment.dataset, folder), RUNS / str(experiment)
    images, run = synthetic_manifest(experiment, folder), home / "generate"
    found = audit(run, home / "set", _encoder(experiment.dataset, manifest))
    metrics = _quality(found) | _cost(RunFolder(run))
    results = [Result(str(experiment), name, value) for name, value in metrics.items()]
    if variant.quality_only:
        return results
    tests = [row for row in rows_of(manifest) if row["split"] == "test"]
    synthetic = write_manifest(home / "synthetic_train_real_test.csv", [*tests, *rows_of(images)])
    results += _results(
        experiment, "tstr ", _classifier_scores(experiment, home / "tstr", synthetic, "--label_fraction", "1.0")
    )
    added = ("--data.synthetic.manifest", str(images), "--data.allow_unaudited", "true")
    both = _classifier_scores(experiment, home / "both", manifest, "--label_fraction", "0.1", *added)
    return results + _results(experiment, "real_10 and synthetic ", both)


def _encoder(dataset: str, manifest: Path) -> Path:
    """The encoder with whose features quality and copies are measured."""
    return finished_run(
        "pretrain", "simclr", RUNS / dataset / "encoder", "--data.manifest", str(manifest), "--data.size", str(SIZE),
        "--rounds.count", "20", "--encoder.init_args.stem", "16",
    )  # fmt: skip


def _cost(run: RunFolder) -> dict[str, float]:
    """Seconds of training, and mean megabytes per visit to and from a site."""
    visits = [visit for round in run.rounds() for visit in round["sites"].values()]
    traffic = {
        direction: fmean(sum(visit[direction].values()) for visit in visits) / 1e6 for direction in ("up", "down")
    }
    return {"seconds": run.about()["seconds"]} | {f"{direction}_mb": mb for direction, mb in traffic.items()}


def _quality(found: AuditRecord) -> dict[str, float]:
    metrics = {f"{name} {key}": value for name, row in found.quality.items() for key, value in row.items()}
    metrics |= {"copies": float(len(found.copies)), "auc": max(site["membership_auc"] for site in found.sites.values())}
    return {name: value for name, value in metrics.items() if value is not None}


def _classifier_scores(experiment: Experiment, out: Path, manifest: Path, *options: str) -> Mapping[str, Any]:
    run = finished_run(
        "finetune", "classify", out / "classifier", "--data.manifest", str(manifest), "--data.size", str(SIZE),
        "--seed", str(experiment.seed), *FINETUNE, *options,
    )  # fmt: skip
    scores: dict[str, Any] = json.loads((run / "scores.json").read_text())
    return scores["sites"] | {"pooled": scores["pooled"]}


def _results(experiment: Experiment, prefix: str, scores: Mapping[str, Any]) -> list[Result]:
    keys = ("balanced_accuracy", "auroc")
    return [
        Result(str(experiment), f"{prefix}{key} {site}", row[key]["value"])
        for site, row in scores.items()
        for key in keys
    ]


def rows_of(manifest: Path) -> list[dict[str, str]]:
    """Rows of a manifest, with absolute paths."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row | {"image": str((manifest.parent / row["image"]).resolve())} for row in rows]


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    columns = ("image", "site", "split", "label", "patient")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


if __name__ == "__main__":
    Driver("benchmarks.experiments.synthesis", __doc__ or "", RUNS, experiments, measure).main()
