"""What pretraining and federating are worth downstream, cell by cell into docs/results.csv and docs/results.md.

    python -m benchmarks.finetuning --data FOLDER --jobs 2       # goes on where it was stopped
    python -m benchmarks.finetuning --data FOLDER --only nuclei/scratch/0

FOLDER holds nuclei_dsb2018/, hippocampus3d/, brain_tumor_mri/ and cxr_covid_multisite/ (pretraining: all of its sites;
normal or pneumonia: one collection, dealt to three sites of different mixes). A cell is a set, a way and a seed: one
fine-tuned model a fraction of the labels. All take as many steps, whatever the labels and whoever trains. Drawn images
are those of benchmarks.synthesis. Every stage is a run folder under checkpoints/finetuning; a finished one is not run
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from statistics import fmean

from benchmarks import synthesis
from benchmarks.cells import Cell, Driver, stage
from benchmarks.results import Result
from fedcore.runs.folder import RunFolder
from fedtune.evaluation.classification import POOLED
from fedtune.evaluation.command import evaluated

RUNS = Path("checkpoints/finetuning")
SEEDS = (0, 1, 2)
FRACTIONS = ("0.05", "0.2", "1.0")


PARTITION = "fedcore.data.partition"


@dataclass(frozen=True)
class Task:
    """A set, the stage and recipe that its models are made by, and how large they are."""

    folder: str
    command: str
    recipe: str
    sites: int
    steps: int
    """Of a site in a round."""
    rounds: int
    score: str
    encoder: str
    """Where the recipe has it."""
    pretrain: tuple[str, ...]
    tune: tuple[str, ...]
    started: tuple[str, ...] = ()
    """Set where it starts from the pretrained encoder."""
    deal: tuple[str, ...] = ("--data.partition", f"{PARTITION}.ByColumn")
    """Images to sites."""


UNET, CLASSIFIER = "--network.init_args.encoder", "--encoder"
TASKS = {
    "nuclei": Task(
        "nuclei_dsb2018", "segment", "segment", 6, 10, 60, "dice", UNET,
        ("--data.size", "64", "--data.channels", "1", "--encoder.init_args.stem", "16", "--rounds.count", "20",
         "--encoder.init_args.norm", "group"),
        ("--data.size", "64", "--data.channels", "1", f"{UNET}.init_args.stem", "16",
         "--network.init_args.widths", "[64,32,16,16,8]", f"{UNET}.init_args.norm", "group"),
    ),
    "hippocampus": Task(
        "hippocampus3d", "segment", "segment_volumes", 3, 20, 15, "dice", UNET,
        ("--data.size", "32", "--visit.batch_size", "32", "--encoder.init_args.stem", "16", "--rounds.count", "20",
         "--method.init_args.views.flip", "0"),
        ("--data.size", "40", "--segmenter.init_args.patch", "32"),
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
class Way:
    """How a model came about."""

    overrides: tuple[str, ...] = ()
    pretrained: bool = False
    drawn: bool = False
    """Half of every batch is drawn by the diffusion model of the same seed."""
    pooled: bool = False
    """One site that holds all images and trains for as many steps as all of them."""
    norm: str | None = None
    """Of the encoder; None: the set's."""
    fractions: tuple[str, ...] = ("1.0",)
    of: tuple[str, ...] = tuple(TASKS)
    """Sets that it is measured on."""


RATES = {"class_path": "fedcore.training.lr_schedule.Cosine", "init_args": {"warmup": 3}}
"""They rise for three rounds, then fall by half a cosine."""


def by(algorithm: str, *callbacks: str) -> tuple[str, ...]:
    """In place of the recipe's algorithm and callbacks."""
    return ("--algorithm", algorithm, "--visit.callbacks", json.dumps([*callbacks, RATES]))


FEDAVG = "fedcore.algorithms.fedavg.FedAvg"
FEDADAM = (
    *by("fedcore.algorithms.fedopt.FedOpt"),
    "--algorithm.init_args.rule", '{"class_path": "fedcore.algorithms.fedopt.Adam", "init_args": {"eta": 0.01}}',
)  # fmt: skip
DITTO = (
    *by("fedcore.algorithms.ditto.Ditto"), "--algorithm.init_args.lam", "0.1", "--visit.keep_optimizer", "false",
)  # fmt: skip
WAYS = {
    "scratch": Way(by(FEDAVG), fractions=FRACTIONS),
    "pretrained": Way(by(FEDAVG), pretrained=True, fractions=FRACTIONS),
    "drawn": Way(by(FEDAVG), pretrained=True, drawn=True, fractions=FRACTIONS, of=("brain_tumor",)),
    "local": Way(by("fedcore.algorithms.local_only.LocalOnly"), fractions=FRACTIONS),
    "central": Way((*by(FEDAVG), "--data.partition", f"{PARTITION}.Pooled"), pooled=True, fractions=FRACTIONS),
    "batch": Way(by(FEDAVG), norm="batch", of=("nuclei",)),
    "fedprox": Way(by(FEDAVG, "fedcore.algorithms.fedprox.ProximalTerm")),
    "fedbn": Way(by("fedcore.algorithms.fedbn.FedBN"), norm="batch"),
    "scaffold": Way(by("fedcore.algorithms.scaffold.Scaffold")),
    "fedadam": Way(FEDADAM),
    "ditto": Way(DITTO, of=("nuclei",)),
}


def cells() -> Iterator[Cell]:
    """The encoders first."""
    yield from (Cell(data, "encoder", 0) for data in TASKS)
    for seed in SEEDS:
        yield from (Cell(data, way, seed) for data in TASKS for way, how in WAYS.items() if data in how.of)


def measure(cell: Cell, folder: Path) -> list[Result]:
    """Runs what is missing of the cell and returns its numbers."""
    task = TASKS[cell.data]
    images = ("--data.manifest", str(folder / task.folder / "manifest.csv"))
    encoder = RUNS / cell.data / "encoder"
    if cell.way == "encoder":
        stage("pretrain", "simclr", encoder, *images, *task.pretrain)
        return []
    way, found = WAYS[cell.way], []
    steps = task.steps * (task.sites if way.pooled else 1)
    start = ("--start", str(encoder), *task.started) if way.pretrained else ()
    norm = (f"{task.encoder}.init_args.norm", way.norm) if way.norm else ()
    drawn = _drawn(cell.seed, folder) if way.drawn else ()
    for fraction in way.fractions:
        run = stage(
            task.command, task.recipe, RUNS / str(cell) / f"labels_{fraction}", *images, *task.tune, *task.deal, *start,
            "--visit.max_epochs", "1000", "--visit.max_steps", str(steps), "--rounds.count", str(task.rounds),
            "--visit.keep_optimizer", "true",
            "--label_fraction", fraction, "--seed", str(cell.seed), "--policy.min_patients", "1",  # of public images
            *drawn, *norm, *way.overrides,
        )  # fmt: skip
        told = _told(run, task.score) | (_by_site(run, task) if way.pooled else {})
        found += [Result(str(cell), f"{name}@{fraction}", value) for name, value in told.items()]
    return found


def _drawn(seed: int, folder: Path) -> tuple[str, ...]:
    manifest = synthesis.drawn(Cell("brain", "diffusion", seed), folder)
    return ("--data.synthetic.manifest", str(manifest), "--data.allow_unaudited", "true")


def _told(run: Path, score: str) -> dict[str, float]:
    """The score of each site's test images, their mean, and that of all pooled; seconds of training."""
    scores = json.loads((run / "scores.json").read_text())
    sites = {site: told[score]["value"] for site, told in scores["sites"].items() if told[score]["value"] is not None}
    return _and_mean(sites, score) | {
        f"{score} pooled": scores["pooled"][score]["value"],
        "seconds": json.loads((run / "run.json").read_text())["seconds"],
    }  # fmt: skip


def _by_site(run: Path, task: Task) -> dict[str, float]:
    """What a model that was trained on all images together scores at each site."""
    table = evaluated(RunFolder(run), task.deal).table
    sites = {site: row[task.score].value for site, row in table.items() if site != POOLED}
    return _and_mean({site: value for site, value in sites.items() if not isnan(value)}, task.score)


def _and_mean(sites: dict[str, float], score: str) -> dict[str, float]:
    return {f"{score} {site}": value for site, value in sites.items()} | {f"{score} mean": fmean(sites.values())}


if __name__ == "__main__":
    Driver("benchmarks.finetuning", __doc__ or "", RUNS, cells, measure).main()
