"""Fine-tuning with and without pretraining and federation: results to docs/results.csv and docs/results.md.

    python -m benchmarks.experiments.finetuning --data FOLDER --jobs 2       # continues a stopped run
    python -m benchmarks.experiments.finetuning --data FOLDER --only nuclei/scratch/0

FOLDER holds nuclei_dsb2018/, hippocampus3d/, brain_tumor_mri/ and cxr_covid_multisite/ (pretraining: all of its sites;
normal or pneumonia: one collection, partitioned to three sites with different class mixes). An experiment is a dataset,
a variant and a seed: one fine-tuned model per fraction of the labels. The number of steps is the same for all fractions
and variants. Synthetic images are those of benchmarks.experiments.synthesis. Every stage is a run folder under
checkpoints/finetuning; a finished one is not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import fmean

from benchmarks.experiments import synthesis
from benchmarks.experiments.driver import Driver, Experiment, finished_run
from benchmarks.experiments.results import Result
from fedcore.runs.folder import RunFolder
from fedtune.evaluation.classification import POOLED
from fedtune.evaluation.command import evaluate_run

RUNS = Path("checkpoints/finetuning")
SEEDS = (0, 1, 2)
FRACTIONS = ("0.05", "0.2", "1.0")


PARTITION = "fedcore.data.partition"


@dataclass(frozen=True)
class Task:
    """A dataset, and the stage, recipe and settings of its models."""

    folder: str
    command: str
    recipe: str
    sites: int
    steps: int
    """Per site and round."""
    rounds: int
    score: str
    encoder: str
    """Key of the encoder in the recipe."""
    pretrain: tuple[str, ...]
    finetune: tuple[str, ...]
    with_start: tuple[str, ...] = ()
    """Additional options if fine-tuning starts from the pretrained encoder."""
    partition: tuple[str, ...] = ("--data.partition", f"{PARTITION}.ByColumn")
    """Assigns images to sites."""


UNET, CLASSIFIER = "--network.init_args.encoder", "--encoder"
TASKS = {
    "nuclei": Task(
        "nuclei_dsb2018", "segment", "segment", 6, 10, 60, "dice", UNET,
        ("--data.size", "64", "--data.channels", "1", "--encoder.init_args.stem", "16", "--rounds.count", "20",
         "--encoder.init_args.norm", "group"),
        ("--data.size", "64", "--data.channels", "1", f"{UNET}.init_args.stem", "16",
         "--network.init_args.decoder_channels", "[64,32,16,16,8]", f"{UNET}.init_args.norm", "group"),
    ),
    "hippocampus": Task(
        "hippocampus3d", "segment", "segment_volumes", 3, 20, 15, "dice", UNET,
        ("--data.size", "32", "--visit.batch_size", "32", "--encoder.init_args.stem", "16", "--rounds.count", "20",
         "--method.init_args.views.flip", "0"),
        ("--data.size", "40", "--segmenter.init_args.patch_size", "32"),
    ),
    "brain_tumor": Task(
        "brain_tumor_mri", "finetune", "classify", 3, 40, 20, "balanced_accuracy", CLASSIFIER,
        ("--data.size", "32", "--encoder.init_args.stem", "16", "--rounds.count", "20"),
        ("--data.size", "32", "--encoder.init_args.stem", "16"),
        ("--classifier.init_args.optimizer.init_args.lr", "0.0003"),
    ),
    "chest_xray": Task(
        "cxr_covid_multisite", "finetune", "classify", 3, 20, 15, "balanced_accuracy", CLASSIFIER,
        ("--data.size", "64", "--encoder.init_args.stem", "16", "--rounds.count", "20"),
        ("--data.size", "64", "--encoder.init_args.stem", "16", "--data.sites", "[nih_us]"),
        ("--classifier.init_args.optimizer.init_args.lr", "0.0003"),
        ("--data.partition", f"{PARTITION}.Dirichlet", "--data.partition.init_args.sites", "3",
         "--data.partition.init_args.alpha", "1"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """How a model is trained."""

    overrides: tuple[str, ...] = ()
    pretrained: bool = False
    synthetic: bool = False
    """Half of every batch are synthetic images of the diffusion model with the same seed."""
    pooled: bool = False
    """One site with all images, which trains for as many steps as all sites together."""
    norm: str | None = None
    """Norm of the encoder; None: that of the task."""
    fractions: tuple[str, ...] = ("1.0",)
    tasks: tuple[str, ...] = tuple(TASKS)
    """Tasks on which it is measured."""


LR_SCHEDULE = {"class_path": "fedcore.training.lr_schedule.Cosine", "init_args": {"warmup": 3}}
"""Learning rates rise for three rounds, then fall by half a cosine."""


def algorithm_options(algorithm: str, *callbacks: str) -> tuple[str, ...]:
    """Options that replace the recipe's algorithm and local callbacks."""
    return ("--algorithm", algorithm, "--visit.callbacks", json.dumps([*callbacks, LR_SCHEDULE]))


FEDAVG = "fedcore.algorithms.fedavg.FedAvg"
FEDADAM = (
    *algorithm_options("fedcore.algorithms.fedopt.FedOpt"),
    "--algorithm.init_args.rule", '{"class_path": "fedcore.algorithms.fedopt.Adam", "init_args": {"eta": 0.01}}',
)  # fmt: skip
DITTO = (
    *algorithm_options("fedcore.algorithms.ditto.Ditto"), "--algorithm.init_args.lam", "0.1",
    "--visit.keep_optimizer", "false",
)  # fmt: skip
VARIANTS = {
    "scratch": Variant(algorithm_options(FEDAVG), fractions=FRACTIONS),
    "pretrained": Variant(algorithm_options(FEDAVG), pretrained=True, fractions=FRACTIONS),
    "synthetic": Variant(
        algorithm_options(FEDAVG), pretrained=True, synthetic=True, fractions=FRACTIONS, tasks=("brain_tumor",)
    ),
    "local": Variant(algorithm_options("fedcore.algorithms.local_only.LocalOnly"), fractions=FRACTIONS),
    "central": Variant(
        (*algorithm_options(FEDAVG), "--data.partition", f"{PARTITION}.Pooled"), pooled=True, fractions=FRACTIONS
    ),
    "batch": Variant(algorithm_options(FEDAVG), norm="batch", tasks=("nuclei",)),
    "fedprox": Variant(algorithm_options(FEDAVG, "fedcore.algorithms.fedprox.ProximalTerm")),
    "fedbn": Variant(algorithm_options("fedcore.algorithms.fedbn.FedBN"), norm="batch"),
    "scaffold": Variant(algorithm_options("fedcore.algorithms.scaffold.Scaffold")),
    "fedadam": Variant(FEDADAM),
    "ditto": Variant(DITTO, tasks=("nuclei",)),
}


def experiments() -> Iterator[Experiment]:
    """The encoders first, since all other experiments start from them."""
    yield from (Experiment(task, "encoder", 0) for task in TASKS)
    for seed in SEEDS:
        for task in TASKS:
            yield from (Experiment(task, name, seed) for name, variant in VARIANTS.items() if task in variant.tasks)


def measure(experiment: Experiment, folder: Path) -> list[Result]:
    """Executes the missing runs of the experiment and returns its results."""
    task = TASKS[experiment.dataset]
    images = ("--data.manifest", str(folder / task.folder / "manifest.csv"))
    encoder = RUNS / experiment.dataset / "encoder"
    if experiment.variant == "encoder":
        finished_run("pretrain", "simclr", encoder, *images, *task.pretrain)
        return []
    variant, results = VARIANTS[experiment.variant], []
    steps = task.steps * (task.sites if variant.pooled else 1)
    start = ("--pretrained", str(encoder), *task.with_start) if variant.pretrained else ()
    norm = (f"{task.encoder}.init_args.norm", variant.norm) if variant.norm else ()
    synthetic = _synthetic(experiment.seed, folder) if variant.synthetic else ()
    for fraction in variant.fractions:
        run = finished_run(
            task.command, task.recipe, RUNS / str(experiment) / f"labels_{fraction}",
            *images, *task.finetune, *task.partition, *start,
            "--visit.max_epochs", "1000", "--visit.max_steps", str(steps), "--rounds.count", str(task.rounds),
            "--visit.keep_optimizer", "true",
            "--label_fraction", fraction, "--seed", str(experiment.seed),
            "--policy.min_patients", "1",  # the images are public
            *synthetic, *norm, *variant.overrides,
        )  # fmt: skip
        scores = _scores(run, task.score) | (_by_site(run, task) if variant.pooled else {})
        results += [Result(str(experiment), f"{name}@{fraction}", value) for name, value in scores.items()]
    return results


def _synthetic(seed: int, folder: Path) -> tuple[str, ...]:
    manifest = synthesis.synthetic_manifest(Experiment("brain", "diffusion", seed), folder)
    return ("--data.synthetic.manifest", str(manifest), "--data.allow_unaudited", "true")


def _scores(run: Path, score: str) -> dict[str, float]:
    """The score on each site's test images, their mean, and the pooled score; seconds of training."""
    scores = json.loads((run / "scores.json").read_text())
    sites = {site: row[score]["value"] for site, row in scores["sites"].items() if row[score]["value"] is not None}
    return _with_mean(sites, score) | {
        f"{score} pooled": scores["pooled"][score]["value"],
        "seconds": json.loads((run / "run.json").read_text())["seconds"],
    }  # fmt: skip


def _by_site(run: Path, task: Task) -> dict[str, float]:
    """The scores at each site of a model that was trained on all images at one site."""
    table = evaluate_run(RunFolder(run), task.partition).table
    sites = {site: row[task.score].value for site, row in table.items() if site != POOLED}
    return _with_mean({site: value for site, value in sites.items() if not isnan(value)}, task.score)


def _with_mean(sites: dict[str, float], score: str) -> dict[str, float]:
    return {f"{score} {site}": value for site, value in sites.items()} | {f"{score} mean": fmean(sites.values())}


if __name__ == "__main__":
    Driver("benchmarks.experiments.finetuning", __doc__ or "", RUNS, experiments, measure).main()
