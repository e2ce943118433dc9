"""Federated pretraining compared with its alternatives: all results of pretraining in docs/results.md.

    python -m benchmarks.experiments.pretraining --data FOLDER       # all; continues a stopped run
    python -m benchmarks.experiments.pretraining --data FOLDER --only brain/statistics/0
    python -m benchmarks.experiments.pretraining --page              # writes the page again from docs/results.csv

FOLDER holds brain_tumor_mri/, cxr_covid_multisite/ and hippocampus3d/. An experiment is a dataset, a variant and a
seed: the pretraining, the probes of its encoder, and classifiers fine-tuned from it with several fractions of the
labels. Every stage is a run folder under checkpoints/evidence; a finished one is not repeated, an interrupted one is
resumed. Each finished experiment writes its rows to docs/results.csv, from which the page is generated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.experiments.driver import Driver, Experiment, finished_run
from benchmarks.experiments.hippocampus import coronal_slices
from benchmarks.experiments.results import Result
from fedcore.models.encoder_store import ENCODERS, encoder_config, find_encoder
from fedssl.evaluation.command import Table, pooled, probe
from fedssl.evaluation.probe import SHARED

RUNS = Path("checkpoints/evidence")
SEEDS = (0, 1, 2)
TUNINGS = ("0.01 frozen", "0.01", "0.05", "0.1", "1.0")
"""Fractions of the labels; frozen: trains the last layer alone."""

LOCAL = ("--algorithm", "fedcore.algorithms.local_only.LocalOnly", "--exchange", "null")
POOLED = ("--data.partition", "fedcore.data.partition.Pooled", "--exchange", "null")
VECTORS = (
    "--exchange",
    "fedssl.bank.vectors.ShareVectors",
    "--exchange.encoding",
    "int8",
    "--policy.max_level",
    "FEATURES",
)
SGD = ("--method.optimizer", "torch.optim.SGD", "--method.optimizer.lr", "0.06", "--method.optimizer.momentum", "0.9",
       "--method.optimizer.weight_decay", "0.0005")  # fmt: skip
# No training step: measures the initial encoder.
UNTRAINED = ("--rounds.count", "1", "--visit.max_steps", "0", "--exchange", "null")
SMALL_SITES = ("--policy.min_patients", "1")
"""The images are public, so small sites are measured too."""
PRETRAIN = ("--visit.precision", "bf16-mixed", "--rounds.count", "30", "--probe.every", "10", *SMALL_SITES)
# The same number of steps with few labels as with all, so that the labels are the only difference.
FINETUNE = (
    "--visit.precision", "bf16-mixed", "--visit.max_epochs", "1000", "--visit.max_steps", "20", "--rounds.count", "16",
    *SMALL_SITES,
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """How an encoder is pretrained: a recipe and its overrides."""

    recipe: str = "moco_shared_bank"
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    tunings: tuple[str, ...] = TUNINGS


MAIN = {
    "random": Variant(overrides=UNTRAINED),
    "local": Variant(overrides=LOCAL),
    "central": Variant(overrides=POOLED),
    "central_sgd": Variant(overrides=(*POOLED, *SGD)),
    "simclr": Variant("simclr"),
    "none": Variant(overrides=("--exchange", "null")),
    "vectors": Variant(overrides=VECTORS),
    "statistics": Variant(),
    "statistics_rsa": Variant("fedmoco"),
}
FAMILY = {
    name: Variant(name, seeds=(0,), tunings=("0.1",))
    for name in ("byol", "fedema", "fedu", "simsiam", "vicreg", "dino", "mae", "fedx", "ldawa", "rotation")
}
FAMILY["random_vit"] = Variant("mae", overrides=UNTRAINED, seeds=(0,), tunings=())
SKEW = {
    f"{name}_dirichlet_{alpha}": Variant(
        variant.recipe,
        (*variant.overrides, "--data.partition", "fedcore.data.partition.Dirichlet", "--data.partition.alpha", alpha,
         "--data.partition.sites", "3"),
        seeds=(0,), tunings=("0.1",),
    )
    for alpha in ("0.1", "1", "10")
    for name, variant in MAIN.items()
    if name in ("none", "vectors", "statistics")
}  # fmt: skip
STRUCTURAL = {
    name: replace(MAIN[name], seeds=(0,), tunings=(), overrides=(*MAIN[name].overrides, "--data.size", "32"))
    for name in ("random", "none", "vectors")
} | {"fcl": Variant("fcl", ("--data.slices", "null", "--data.size", "32"), seeds=(0,), tunings=())}


@dataclass(frozen=True)
class Dataset:
    """Images, the variants that are measured on them, and overrides of the classifiers' recipe."""

    manifest: Callable[[Path], Path]
    """From the folder of all datasets."""
    variants: dict[str, Variant]
    task: tuple[str, ...] = ()
    """Selects the images of the classification task."""


DATASETS = {
    "brain": Dataset(lambda folder: folder / "brain_tumor_mri" / "manifest.csv", MAIN | FAMILY | SKEW),
    "cxr": Dataset(
        lambda folder: folder / "cxr_covid_multisite" / "manifest.csv",
        {name: variant for name, variant in MAIN.items() if name != "central_sgd"},
        # Normal or pneumonia within one hospital; in the other hospitals of this collection all images have one label.
        ("--data.sites", "[nih_us]"),
    ),
    "hippocampus": Dataset(
        lambda folder: coronal_slices(folder / "hippocampus3d", RUNS / "hippocampus_slices"), STRUCTURAL
    ),
}


def _of_global_encoder(table: Table, metric: str) -> float | None:
    """Of the encoder from which fine-tuning starts, the global one also where sites have their own as well."""
    shared = pooled(table, f"{SHARED}{metric}")
    return pooled(table, metric) if shared is None else shared


def measure(experiment: Experiment, folder: Path) -> list[Result]:
    """Executes the missing runs of the experiment and returns its results."""
    dataset, name = DATASETS[experiment.dataset], str(experiment)
    variant, images = dataset.variants[experiment.variant], ("--data.manifest", str(dataset.manifest(folder)))
    seed = ("--seed", str(experiment.seed))
    run = finished_run(
        "pretrain", variant.recipe, RUNS / name / "pretrain", *images, *seed, *PRETRAIN, *variant.overrides
    )
    # Whatever the partition of the training images, encoders are measured at the real hospitals.
    partition = () if experiment.variant == "local" else ("--data.partition", "null")
    table = probe(run, ["--probe.max_images", "1000000", *images, *partition])
    results = [
        Result(name, key, value) for key in ("knn", "linear") if (value := _of_global_encoder(table, key)) is not None
    ]
    results += [Result(name, key, value) for key, value in cost(run).items()]
    encoder = encoder_folder(experiment, run)
    start = () if experiment.variant == "random" else ("--pretrained", str(encoder), *encoder_options(encoder))
    for tuning in variant.tunings:
        fraction, frozen = tuning.split()[0], "frozen" in tuning
        finetuned = finished_run(
            "finetune", "classify", RUNS / name / f"tuned_{tuning.replace(' ', '_')}", *images, *seed, *FINETUNE,
            *start, "--label_fraction", fraction, *dataset.task, *learning_rate(experiment.variant, frozen),
        )  # fmt: skip
        scores = json.loads((finetuned / "scores.json").read_text())["pooled"]
        for key in ("balanced_accuracy", "auroc"):
            results.append(Result(name, f"{key}@{tuning}", scores[key]["value"]))
    return results


def encoder_folder(experiment: Experiment, run: Path) -> Path:
    """The encoder from which fine-tuning starts; of local pretraining a different site's encoder for each seed."""
    if experiment.variant != "local":
        return run
    if experiment.dataset == "cxr":
        return run / "sites/nih_us/encoder"
    encoders = sorted(run.glob("sites/*/encoder"))
    return encoders[experiment.seed % len(encoders)]


def learning_rate(variant: str, frozen: bool) -> tuple[str, ...]:
    """The better learning rate for the start, of 1e-3 and 3e-4 (brain, seed 0, 1 % of the labels)."""
    if frozen:
        return "--classifier.freeze_encoder", "true", "--classifier.optimizer.lr", "0.003"
    return "--classifier.optimizer.lr", "0.001" if variant == "random" else "0.0003"


def encoder_options(folder: Path) -> tuple[str, ...]:
    """The encoder settings of pretraining, which fine-tuning must use as well."""
    config = encoder_config(find_encoder(folder))
    settings = {k: v for k, v in config["init_args"].items() if k not in ("spatial_dims", "channels")}
    options = [option for key, value in settings.items() for option in (f"--encoder.{key}", str(value))]
    kind = ENCODERS[config["encoder"]]
    return ("--encoder", f"{kind.__module__}.{kind.__qualname__}", *options)


def cost(run: Path) -> dict[str, float]:
    """MB up per visit, by kind, and seconds of pretraining: rounds times their median, as runs may have been paused."""
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    visits = [site["up"] for r in rounds for site in r["sites"].values()]
    mean = {f"{kind}_mb": sum(v[kind] for v in visits) / len(visits) / 1e6 for kind in ("weights", "exchange")}
    return mean | {"seconds": len(rounds) * median(r["seconds"] for r in rounds)}


def experiments() -> Iterator[Experiment]:
    """Seed by seed, so that an interrupted run leaves complete tables."""
    for seed in SEEDS:
        for dataset, images in DATASETS.items():
            for name, variant in images.variants.items():
                if seed in variant.seeds:
                    yield Experiment(dataset, name, seed)


if __name__ == "__main__":
    Driver("benchmarks.experiments.pretraining", __doc__ or "", RUNS, experiments, measure).main()
