"""What one classifier learns from those of sites that trained alone, by images inverted from them (FedISCA).

    python -m benchmarks.distillation --data FOLDER        # goes on where it was stopped
    python -m benchmarks.distillation --data FOLDER --only brain/distil_mean/0

FOLDER holds brain_tumor_mri/; the phantom hospitals are those of benchmarks.synthesis. A cell is a set, a way and a
seed. All its scores are of all sites' test images together. Every stage is a run folder under checkpoints/distillation;
a finished one is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from benchmarks import synthesis
from benchmarks.cells import Cell, Driver, stage
from benchmarks.distillation_tables import ACCURACY
from benchmarks.results import Result
from fedcore.data.dataset import Images
from fedcore.data.source import Data
from fedcore.runs.classifiers import fresh_classifier
from fedcore.runs.folder import RunFolder
from fedgen.oneshot.distil import distil
from fedgen.oneshot.distillation import Distillation, soft_targets
from fedgen.oneshot.ensemble import Ensemble, TrainedClassifiers, teacher_logits
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from fedgen.oneshot.teacher_data import SetData
from fedgen.synthetic.synthetic_set import read_settings
from fedtune.evaluation.classification import POOLED
from fedtune.evaluation.command import evaluated

RUNS = Path("checkpoints/distillation")
SEEDS, SITES = (0, 1, 2), {"brain": 3, "phantom": 4}
TRAIN = ("--data.size", "32", "--encoder.init_args.stem", "8", "--visit.max_epochs", "1000", "--visit.max_steps", "60",
         "--rounds.count", "16", "--label_fraction", "1.0", "--policy.min_patients", "1")  # fmt: skip
STEPS, BATCH, TEMPERATURE, RATE = 100, 48, 4.0, 0.01
STUDENTS = {
    "set_mean": (2, "mean"), "set_pixels_mean": (0, "mean"), "set_codes": (2, "random"), "set_pixels": (0, "random"),
    "distil_mean": (2, "mean"), "distil_pixels": (0, "random"), "distil_codes": (2, "random"),
    "distil_pixels_mean": (0, "mean"),
}  # fmt: skip
"""Scales of the images' codes (0: their pixels), and what the student begins as. `set`: it learns from the finished
images alone, else (FedISCA) from all on their way; as many images are inverted, and as many steps taken."""


def cells() -> Iterator[Cell]:
    for seed in SEEDS:
        for data in SITES:
            yield from (Cell(data, way, seed) for way in ("oneshot", *STUDENTS, "distil_real", "oneshot_fedavg"))


def measure(cell: Cell, folder: Path) -> list[Result]:
    """Runs what is missing of the cell and returns its numbers."""
    manifest = str(synthesis.manifest_of(cell.data, folder))
    images = ("--data.manifest", manifest, "--seed", str(cell.seed), *TRAIN)
    if cell.way == "oneshot_fedavg":
        run = stage("finetune", "classify", RUNS / str(cell), *images)
        return [Result(str(cell), ACCURACY, json.loads((run / "scores.json").read_text())["pooled"][ACCURACY]["value"])]
    alone = stage("finetune", "oneshot", RUNS / cell.data / "oneshot" / str(cell.seed), *images)
    if cell.way == "oneshot":
        return [Result(str(cell), f"{ACCURACY} {what}", value) for what, value in _of_members(alone, manifest).items()]
    if cell.way == "distil_real":
        return [Result(str(cell), ACCURACY, _on_real_images(alone, manifest, cell.seed))]
    return _of_student(cell, alone)


def _of_student(cell: Cell, alone: Path) -> list[Result]:
    (scales, start), sites = STUDENTS[cell.way], SITES[cell.data]
    out, inversion = RUNS / str(cell) / "student", Inversion(STEPS, scales=scales)
    if cell.way.startswith("set"):
        images = RUNS / cell.data / f"set_of_{scales}_scales" / str(cell.seed)
        invert(alone, images, sites * BATCH, None, False, inversion, cell.seed, BATCH, resume=images.exists())
        how = Distillation(STEPS, TEMPERATURE, RATE)
        distil(alone, out, images, how, inversion, start, cell.seed, BATCH, resume=out.exists())
        told = read_settings(images)["teacher_accuracy"].values()
    else:
        how = Distillation(sites, TEMPERATURE, RATE)
        distil(alone, out, None, how, inversion, start, cell.seed, BATCH, resume=out.exists())
        told = RunFolder(out).about()["teacher_accuracy"].values()
    recognised = sum(of["correct"] for of in told) / sum(of["images"] for of in told)
    score = evaluated(RunFolder(out), ()).table[POOLED][ACCURACY].value
    return [Result(str(cell), ACCURACY, score), Result(str(cell), "recognised", recognised)]


def _of_members(alone: Path, manifest: str) -> dict[str, float]:
    trained, test = TrainedClassifiers.open(alone), _images(manifest, "test")
    averaged = fresh_classifier(trained.run, 0)
    averaged.load_state_dict(trained.mean_weights())
    return {
        "members": fmean(_accuracy(Ensemble([network]), test) for network in trained.networks.values()),
        "mean of weights": _accuracy(Ensemble([averaged]), test),
        "ensemble": _accuracy(trained.joint(), test),
    }


def _on_real_images(alone: Path, manifest: str, seed: int) -> float:
    """Of a student that takes as many steps as the others, on training images whose labels it is not told."""
    trained, student = TrainedClassifiers.open(alone), fresh_classifier(RunFolder(alone), seed)
    (images, _), teacher = _images(manifest, "train"), trained.joint()
    targets = soft_targets(teacher_logits({None: teacher}, [None] * len(images), images, 256), TEMPERATURE)
    epochs = len(trained.networks)
    data, how = SetData(images, targets, BATCH, seed), Distillation(epochs, TEMPERATURE, RATE)
    optimizer, batches = how.optimizer(student), (batch for at in range(1000) for batch in data.batches(at))
    for epoch in range(epochs):
        how.train_epoch(student, optimizer, [next(batches) for _ in range(STEPS)], epoch)
    return _accuracy(Ensemble([student]), _images(manifest, "test"))


def _images(manifest: str, split: str) -> tuple[Tensor, Tensor]:
    """Of all sites together, with their labels."""
    sites: list[Images] = list(Data(manifest=manifest, size=32).load().split(split).values())
    return (torch.cat([site.batch(range(len(site))) for site in sites]),
            torch.cat([site.targets("labels", range(len(site))) for site in sites]))  # fmt: skip


def _accuracy(network: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Balanced: the mean over classes."""
    with torch.no_grad():
        answer = torch.cat([network(images) for images in test[0].split(256)]).argmax(1)
    return fmean(float((answer[test[1] == label] == label).float().mean()) for label in test[1].unique())


if __name__ == "__main__":
    Driver("benchmarks.distillation", __doc__ or "", RUNS, cells, measure).main()
