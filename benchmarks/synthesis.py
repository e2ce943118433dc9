"""What drawn images are worth: measured cell by cell into docs/results.csv and docs/results.md.

    python -m benchmarks.synthesis --data FOLDER --jobs 2        # goes on where it was stopped
    python -m benchmarks.synthesis --data FOLDER --only brain/diffusion/0

FOLDER holds brain_tumor_mri/; the phantom hospitals are written beside the runs. A cell is a set, a way and a seed. For
a generator: the hospitals train it, 1,000 images are drawn and audited, one classifier is trained on them alone and
tested on real images of every site, another on real images with 10 % of the labels, whose batches they join. Other
ways are classifiers on real images. Every stage is a run folder under checkpoints/synthesis; a finished one is not run
again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.cells import Cell, Driver, stage
from benchmarks.results import Result
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.runs.folder import RunFolder
from fedgen.auditing.run import inspect
from fedgen.sampling import sample

RUNS = Path("checkpoints/synthesis")
SEEDS = (0, 1, 2)
SIZE, COUNT, STEPS = 32, 1000, 20
HOSPITALS = {"brain": 3, "phantom": 4}
VISIT = {"brain": 35, "phantom": 25}
"""Steps of a generator at a hospital in one round: about a hundred in all."""
# As many steps whatever is trained on: what differs is the images alone.
FINETUNE = ("--visit.max_epochs", "1000", "--visit.max_steps", "60", "--rounds.count", "16",
            "--encoder.init_args.stem", "16")  # fmt: skip
DIFFUSION = ("--generator.init_args.network.init_args.widths", "[16,32,64]", "--visit.max_epochs", "1000",
             "--rounds.count", "30", "--visit.precision", "bf16-mixed", "--visit.compile", "true")  # fmt: skip

GAN = ("--generator.init_args.painter.init_args.widths", "[16,32,64,64]", "--visit.max_epochs", "1000",
       "--generator.init_args.critic.init_args.widths", "[16,32,64,64]", "--rounds.count", "50")  # fmt: skip


@dataclass(frozen=True)
class Generating:
    """How a generator came about."""

    recipe: str
    overrides: tuple[str, ...] = DIFFUSION
    pooled: bool = False
    """One site that holds all images and trains for as many steps."""
    told: bool = False
    """Its distances alone are measured, not what its images are worth."""


GENERATORS = {
    "gan": Generating("gan", GAN),
    "diffusion": Generating("diffusion", (*DIFFUSION, "--by_site", "false")),
    "diffusion_by_site": Generating("diffusion"),
    "diffusion_central": Generating("diffusion", pooled=True, told=True),
}
CHEAP = {
    "diffusion_int8": Generating(
        "diffusion_cheap",
        (*DIFFUSION, "--algorithm.init_args.algorithm", "fedcore.algorithms.fedavg.FedAvg"),
        told=True,
    ),
    "diffusion_halves": Generating("diffusion_cheap", told=True),
}
"""What shorter messages cost: one seed, on the phantoms."""
REAL: dict[str, tuple[str, ...]] = {
    "real": ("--label_fraction", "1.0"),
    "real_10": ("--label_fraction", "0.1"),
}
"""Classifiers on the real images of all sites, with all or some of the labels."""


def manifest_of(data: str, folder: Path) -> Path:
    if data == "brain":
        return folder / "brain_tumor_mri" / "manifest.csv"
    written = RUNS / "phantom_hospitals" / "manifest.csv"
    if not written.exists():
        Phantoms(sites=HOSPITALS["phantom"], images_per_site=400).write(written.parent, SIZE)
    return written


def cells() -> Iterator[Cell]:
    """The encoders first, since all generators of a set are told by one."""
    yield from (Cell(data, "encoder", 0) for data in HOSPITALS)
    for seed in SEEDS:
        for data, hospitals in HOSPITALS.items():
            ways = [*REAL, *(f"alone_{at}" for at in range(1, hospitals + 1)), *GENERATORS]
            yield from (Cell(data, way, seed) for way in ways)
    yield from (Cell("phantom", way, 0) for way in CHEAP)


def measure(cell: Cell, folder: Path) -> list[Result]:
    """Runs what is missing of the cell and returns its numbers."""
    manifest, home = manifest_of(cell.data, folder), RUNS / str(cell)
    if cell.way == "encoder":
        _encoder(cell.data, manifest)
        return []
    if how := (GENERATORS | CHEAP).get(cell.way):
        return _of_generator(cell, folder, how)
    if cell.way in REAL:
        return _scores(cell, "", _tuned(cell, home, manifest, *REAL[cell.way]))
    rows = rows_of(manifest)
    site = f"hospital_{cell.way.removeprefix('alone_')}"
    own = [row for row in rows if row["split"] == "test" or row["site"] == site]
    return _scores(cell, "", _tuned(cell, home, written(home / "own.csv", own), "--label_fraction", "1.0"))


def drawn(cell: Cell, folder: Path) -> Path:
    """Manifest of the images that the cell's generator draws."""
    home, how = RUNS / str(cell), (GENERATORS | CHEAP)[cell.way]
    visit = VISIT[cell.data] * (HOSPITALS[cell.data] if how.pooled else 1)
    pooled = ("--data.partition", "fedcore.data.partition.Pooled") if how.pooled else ()
    run = stage(
        "generate train", how.recipe, home / "generate", "--data.manifest", str(manifest_of(cell.data, folder)),
        "--data.size", str(SIZE), "--seed", str(cell.seed), *how.overrides, "--visit.max_steps", str(visit), *pooled,
    )  # fmt: skip
    steps = None if how.recipe == "gan" else STEPS
    return sample(run, home / "set", COUNT, steps=steps, resume=(home / "set").exists())


def _of_generator(cell: Cell, folder: Path, how: Generating) -> list[Result]:
    manifest, home = manifest_of(cell.data, folder), RUNS / str(cell)
    images, run = drawn(cell, folder), home / "generate"
    found = inspect(run, home / "set", _encoder(cell.data, manifest))
    told = _quality(found) | _cost(RunFolder(run))
    results = [Result(str(cell), name, value) for name, value in told.items()]
    if how.told:
        return results
    tests = [row for row in rows_of(manifest) if row["split"] == "test"]
    alone = written(home / "drawn_train_real_test.csv", [*tests, *rows_of(images)])
    results += _scores(cell, "tstr ", _tuned(cell, home / "tstr", alone, "--label_fraction", "1.0"))
    joining = ("--data.synthetic.manifest", str(images), "--data.allow_unaudited", "true")
    both = _tuned(cell, home / "both", manifest, "--label_fraction", "0.1", *joining)
    return results + _scores(cell, "real_10 and drawn ", both)


def _encoder(data: str, manifest: Path) -> Path:
    """The encoder whose features quality and copies are told by."""
    return stage(
        "pretrain", "simclr", RUNS / data / "encoder", "--data.manifest", str(manifest), "--data.size", str(SIZE),
        "--rounds.count", "20", "--encoder.init_args.stem", "16",
    )  # fmt: skip


def _cost(run: RunFolder) -> dict[str, float]:
    """Seconds of training, and megabytes to and from a site in a mean visit."""
    visits = [visit for round in run.rounds() for visit in round["sites"].values()]
    traffic = {way: fmean(sum(visit[way].values()) for visit in visits) / 1e6 for way in ("up", "down")}
    return {"seconds": run.about()["seconds"]} | {f"{way}_mb": mb for way, mb in traffic.items()}


def _quality(found: AuditRecord) -> dict[str, float]:
    told = {f"{name} {key}": value for name, row in found.quality.items() for key, value in row.items()}
    told |= {"copies": float(len(found.copies)), "auc": max(site["auc"] for site in found.sites.values())}
    return {name: value for name, value in told.items() if value is not None}


def _tuned(cell: Cell, out: Path, manifest: Path, *words: str) -> Mapping[str, Any]:
    run = stage(
        "finetune", "classify", out / "classifier", "--data.manifest", str(manifest), "--data.size", str(SIZE),
        "--seed", str(cell.seed), *FINETUNE, *words,
    )  # fmt: skip
    scores: dict[str, Any] = json.loads((run / "scores.json").read_text())
    return scores["sites"] | {"pooled": scores["pooled"]}


def _scores(cell: Cell, what: str, scores: Mapping[str, Any]) -> list[Result]:
    keys = ("balanced_accuracy", "auroc")
    return [Result(str(cell), f"{what}{key} {site}", row[key]["value"]) for site, row in scores.items() for key in keys]


def rows_of(manifest: Path) -> list[dict[str, str]]:
    """Of a manifest, with absolute paths."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row | {"image": str((manifest.parent / row["image"]).resolve())} for row in rows]


def written(path: Path, rows: list[dict[str, str]]) -> Path:
    columns = ("image", "site", "split", "label", "patient")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


if __name__ == "__main__":
    Driver("benchmarks.synthesis", __doc__ or "", RUNS, cells, measure).main()
