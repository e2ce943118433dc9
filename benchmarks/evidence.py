"""What federated pretraining is worth: regenerates every number of docs/results.md.

    python -m benchmarks.evidence --data FOLDER                  # everything; goes on where it was stopped
    python -m benchmarks.evidence --data FOLDER --only brain/statistics/0
    python -m benchmarks.evidence --page                         # the page again from docs/results.csv

FOLDER holds brain_tumor_mri/, cxr_covid_multisite/ and hippocampus3d/. A cell is a data set, a way to pretrain and a
seed: the pretraining, the probes of its encoder, and classifiers fine-tuned from it with several fractions of the
labels. Every stage is a run folder under checkpoints/evidence; a finished one is not run again, an interrupted one is
resumed. Each finished cell puts its rows into docs/results.csv, from which tables and plots of the page are made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.cells import Cell, Driver, stage
from benchmarks.hippocampus import slices_of
from benchmarks.results import Result
from fedcore.models.encoder_store import encoder_config, find_encoder
from fedssl.evaluation.command import Table, pooled, probe
from fedssl.evaluation.probe import SHARED

RUNS = Path("checkpoints/evidence")
SEEDS = (0, 1, 2)
TUNINGS = ("0.01 frozen", "0.01", "0.05", "0.1", "1.0")
"""Fractions of the labels; frozen trains the last layer alone."""

ALONE = ("--algorithm", "fedcore.algorithms.local_only.LocalOnly", "--exchange", "null")
POOLED = ("--data.partition", "fedcore.data.partition.Pooled", "--exchange", "null")
VECTORS = (
    "--exchange",
    "fedssl.bank.vectors.ShareVectors",
    "--exchange.wire",
    "int8",
    "--policy.max_level",
    "FEATURES",
)
SGD = ("--method.optimizer", "torch.optim.SGD", "--method.optimizer.lr", "0.06", "--method.optimizer.momentum", "0.9",
       "--method.optimizer.weight_decay", "0.0005")  # fmt: skip
# No step is taken: what is measured is the encoder as it was made.
UNTRAINED = ("--rounds.count", "1", "--visit.max_steps", "0", "--exchange", "null")
SMALL = ("--policy.min_patients", "1")
"""Images are public, so small sites are measured too."""
PRETRAIN = ("--visit.precision", "bf16-mixed", "--rounds.count", "30", "--probe.every", "10", *SMALL)
# As many steps with few labels as with all of them: what differs is the labels alone.
FINETUNE = (
    "--visit.precision", "bf16-mixed", "--visit.max_epochs", "1000", "--visit.max_steps", "20", "--rounds.count", "16",
    *SMALL,
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How an encoder came about: a recipe and what overrides it."""

    recipe: str = "moco_shared_bank"
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    tunings: tuple[str, ...] = TUNINGS


MAIN = {
    "random": Way(overrides=UNTRAINED),
    "local": Way(overrides=ALONE),
    "central": Way(overrides=POOLED),
    "central_sgd": Way(overrides=(*POOLED, *SGD)),
    "simclr": Way("simclr"),
    "none": Way(overrides=("--exchange", "null")),
    "vectors": Way(overrides=VECTORS),
    "statistics": Way(),
    "statistics_rsa": Way("fedmoco"),
}
FAMILY = {
    name: Way(name, seeds=(0,), tunings=("0.1",))
    for name in ("byol", "fedema", "fedu", "simsiam", "vicreg", "dino", "mae", "fedx", "ldawa", "rotation")
}
FAMILY["random_vit"] = Way("mae", overrides=UNTRAINED, seeds=(0,), tunings=())
SKEW = {
    f"{name}_dirichlet_{alpha}": Way(
        way.recipe,
        (*way.overrides, "--data.partition", "fedcore.data.partition.Dirichlet", "--data.partition.alpha", alpha,
         "--data.partition.sites", "3"),
        seeds=(0,), tunings=("0.1",),
    )
    for alpha in ("0.1", "1", "10")
    for name, way in MAIN.items()
    if name in ("none", "vectors", "statistics")
}  # fmt: skip
STRUCTURAL = {
    name: replace(MAIN[name], seeds=(0,), tunings=(), overrides=(*MAIN[name].overrides, "--data.size", "32"))
    for name in ("random", "none", "vectors")
} | {"fcl": Way("fcl", ("--data.slices", "null", "--data.size", "32"), seeds=(0,), tunings=())}


@dataclass(frozen=True)
class ImageSet:
    """Images, what is measured of them, and what overrides a recipe there."""

    manifest: Callable[[Path], Path]
    """From the folder of all sets."""
    ways: dict[str, Way]
    task: tuple[str, ...] = ()
    """Which images the classifiers are for."""


SETS = {
    "brain": ImageSet(lambda sets: sets / "brain_tumor_mri" / "manifest.csv", MAIN | FAMILY | SKEW),
    "cxr": ImageSet(
        lambda sets: sets / "cxr_covid_multisite" / "manifest.csv",
        {name: way for name, way in MAIN.items() if name != "central_sgd"},
        # Normal against pneumonia within one hospital; elsewhere in this collection label and site are one.
        ("--data.sites", "[nih_us]"),
    ),
    "hippocampus": ImageSet(lambda sets: slices_of(sets / "hippocampus3d", RUNS / "hippocampus_slices"), STRUCTURAL),
}


def _of_federation(table: Table, metric: str) -> float | None:
    """Of the encoder that fine-tuning starts from, also where sites have their own beside it."""
    shared = pooled(table, f"{SHARED}{metric}")
    return pooled(table, metric) if shared is None else shared


def measure(cell: Cell, folder: Path) -> list[Result]:
    """Runs what is missing of the cell and returns its numbers."""
    images_of = SETS[cell.data]
    way, images = images_of.ways[cell.way], ("--data.manifest", str(images_of.manifest(folder)))
    home = RUNS / str(cell)
    seed = ("--seed", str(cell.seed))
    run = stage("pretrain", way.recipe, home / "pretrain", *images, *seed, *PRETRAIN, *way.overrides)
    # However the images were dealt for training, encoders are measured at the hospitals as they are.
    there = () if cell.way == "local" else ("--data.partition", "null")
    table = probe(run, ["--probe.images", "1000000", *images, *there])
    found = [
        Result(str(cell), key, value) for key in ("knn", "linear") if (value := _of_federation(table, key)) is not None
    ]
    found += [Result(str(cell), key, value) for key, value in cost(run).items()]
    begin = () if cell.way == "random" else ("--start", str(start_of(cell, run)), *as_pretrained(start_of(cell, run)))
    for tuning in way.tunings:
        fraction, frozen = tuning.split()[0], "frozen" in tuning
        tuned = stage(
            "finetune", "classify", home / f"tuned_{tuning.replace(' ', '_')}", *images, *seed, *FINETUNE, *begin,
            "--label_fraction", fraction, *images_of.task, *rate(cell.way, frozen),
        )  # fmt: skip
        scores = json.loads((tuned / "scores.json").read_text())["pooled"]
        for key in ("balanced_accuracy", "auroc"):
            found.append(Result(str(cell), f"{key}@{tuning}", scores[key]["value"]))
    return found


def start_of(cell: Cell, run: Path) -> Path:
    """What fine-tuning starts from: where sites trained alone, another site's encoder with each seed."""
    if cell.way != "local":
        return run
    if cell.data == "cxr":
        return run / "sites/nih_us/encoder"
    alone = sorted(run.glob("sites/*/encoder"))
    return alone[cell.seed % len(alone)]


def rate(way: str, frozen: bool) -> tuple[str, ...]:
    """The learning rate that was better for the start, of 1e-3 and 3e-4 (brain, seed 0, 1 % of the labels)."""
    if frozen:
        return "--classifier.frozen", "true", "--classifier.optimizer.lr", "0.003"
    return "--classifier.optimizer.lr", "0.001" if way == "random" else "0.0003"


def as_pretrained(start: Path) -> tuple[str, ...]:
    """The classifier's encoder, which has to be the one that was pretrained."""
    config = encoder_config(find_encoder(start))
    settings = {k: v for k, v in config["init_args"].items() if k not in ("spatial_dims", "channels")}
    words = [word for key, value in settings.items() for word in (f"--encoder.{key}", str(value))]
    return ("--encoder", f"fedcore.models.{config['encoder'].lower()}.{config['encoder']}", *words)


def cost(run: Path) -> dict[str, float]:
    """MB up a visit, by kind, and seconds of the pretraining: rounds times their median, as a pause may lie between."""
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    visits = [site["up"] for r in rounds for site in r["sites"].values()]
    mean = {f"{kind}_mb": sum(v[kind] for v in visits) / len(visits) / 1e6 for kind in ("weights", "exchange")}
    return mean | {"seconds": len(rounds) * median(r["seconds"] for r in rounds)}


def cells() -> Iterator[Cell]:
    """Seed by seed, so that an interrupted night leaves whole tables."""
    for seed in SEEDS:
        for data, images in SETS.items():
            for way, how in images.ways.items():
                if seed in how.seeds:
                    yield Cell(data, way, seed)


if __name__ == "__main__":
    Driver("benchmarks.evidence", __doc__ or "", RUNS, cells, measure).main()
