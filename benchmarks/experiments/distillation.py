"""Distillation of classifiers that sites trained locally into one, with images inverted from them (FedISCA).

    python -m benchmarks.experiments.distillation --data FOLDER        # continues a stopped run
    python -m benchmarks.experiments.distillation --data FOLDER --only brain/distil_mean/0

FOLDER holds brain_tumor_mri/; the simulated hospitals are those of benchmarks.experiments.synthesis. An experiment is a
dataset, a variant and a seed. All scores are on the test images of all sites together. Every stage is a run folder
under checkpoints/distillation; a finished one is not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn

from benchmarks.experiments import synthesis
from benchmarks.experiments.distillation_tables import ACCURACY
from benchmarks.experiments.driver import Driver, Experiment, finished_run
from benchmarks.experiments.results import Result
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
from fedtune.evaluation.command import evaluate_run

RUNS = Path("checkpoints/distillation")
SEEDS, SITES = (0, 1, 2), {"brain": 3, "phantom": 4}
TRAIN = ("--data.size", "32", "--encoder.init_args.stem", "8", "--visit.max_epochs", "1000", "--visit.max_steps", "60",
         "--rounds.count", "16", "--label_fraction", "1.0", "--policy.min_patients", "1")  # fmt: skip
STEPS, BATCH, TEMPERATURE, LEARNING_RATE = 100, 48, 4.0, 0.01
STUDENTS = {
    "set_mean": (2, "mean"), "set_pixels_mean": (0, "mean"), "set_codes": (2, "random"), "set_pixels": (0, "random"),
    "distil_mean": (2, "mean"), "distil_pixels": (0, "random"), "distil_codes": (2, "random"),
    "distil_pixels_mean": (0, "mean"),
}  # fmt: skip
"""Scales of the images' codes (0: pixels), and the student's start. `set`: the student trains on the final images
alone, else (FedISCA) on all intermediate images; the numbers of inverted images and of steps are the same."""


def experiments() -> Iterator[Experiment]:
    for seed in SEEDS:
        for dataset in SITES:
            yield from (
                Experiment(dataset, variant, seed)
                for variant in ("oneshot", *STUDENTS, "distil_real", "oneshot_fedavg")
            )


def measure(experiment: Experiment, folder: Path) -> list[Result]:
    """Executes the missing runs of the experiment and returns its results."""
    manifest = str(synthesis.manifest_of(experiment.dataset, folder))
    images = ("--data.manifest", manifest, "--seed", str(experiment.seed), *TRAIN)
    if experiment.variant == "oneshot_fedavg":
        run = finished_run("finetune", "classify", RUNS / str(experiment), *images)
        scores = json.loads((run / "scores.json").read_text())["pooled"]
        return [Result(str(experiment), ACCURACY, scores[ACCURACY]["value"])]
    local_run = finished_run(
        "finetune", "oneshot", RUNS / experiment.dataset / "oneshot" / str(experiment.seed), *images
    )
    if experiment.variant == "oneshot":
        accuracies = _local_classifiers(local_run, manifest)
        return [Result(str(experiment), f"{ACCURACY} {part}", value) for part, value in accuracies.items()]
    if experiment.variant == "distil_real":
        return [Result(str(experiment), ACCURACY, _student_on_real_images(local_run, manifest, experiment.seed))]
    return _distilled_student(experiment, local_run)


def _distilled_student(experiment: Experiment, local_run: Path) -> list[Result]:
    (scales, start), sites = STUDENTS[experiment.variant], SITES[experiment.dataset]
    out, inversion = RUNS / str(experiment) / "student", Inversion(STEPS, scales=scales)
    if experiment.variant.startswith("set"):
        images = RUNS / experiment.dataset / f"set_of_{scales}_scales" / str(experiment.seed)
        invert(local_run, images, sites * BATCH, None, False, inversion, experiment.seed, BATCH, resume=images.exists())
        distillation = Distillation(STEPS, TEMPERATURE, LEARNING_RATE)
        distil(local_run, out, images, distillation, inversion, start, experiment.seed, BATCH, resume=out.exists())
        rows = read_settings(images)["teacher_accuracy"].values()
    else:
        distillation = Distillation(sites, TEMPERATURE, LEARNING_RATE)
        distil(local_run, out, None, distillation, inversion, start, experiment.seed, BATCH, resume=out.exists())
        rows = RunFolder(out).about()["teacher_accuracy"].values()
    correct = sum(row["correct"] for row in rows) / sum(row["images"] for row in rows)
    score = evaluate_run(RunFolder(out), ()).table[POOLED][ACCURACY].value
    return [Result(str(experiment), ACCURACY, score), Result(str(experiment), "recognised", correct)]


def _local_classifiers(local_run: Path, manifest: str) -> dict[str, float]:
    tuned, test = TrainedClassifiers.open(local_run), _images(manifest, "test")
    averaged = fresh_classifier(tuned.run, 0)
    averaged.load_state_dict(tuned.mean_weights())
    return {
        "members": fmean(_accuracy(Ensemble([network]), test) for network in tuned.networks.values()),
        "mean of weights": _accuracy(Ensemble([averaged]), test),
        "ensemble": _accuracy(tuned.joint(), test),
    }


def _student_on_real_images(local_run: Path, manifest: str, seed: int) -> float:
    """Accuracy of a student that trains for the same number of steps on real training images without their labels."""
    tuned, student = TrainedClassifiers.open(local_run), fresh_classifier(RunFolder(local_run), seed)
    (images, _), teacher = _images(manifest, "train"), tuned.joint()
    soft = soft_targets(teacher_logits({None: teacher}, [None] * len(images), images, 256), TEMPERATURE)
    epochs = len(tuned.networks)
    course, distillation = SetData(images, soft, BATCH, seed), Distillation(epochs, TEMPERATURE, LEARNING_RATE)
    optimizer, batches = (
        distillation.optimizer(student),
        (lesson for at in range(1000) for lesson in course.batches(at)),
    )
    for epoch in range(epochs):
        distillation.train_epoch(student, optimizer, [next(batches) for _ in range(STEPS)], epoch)
    return _accuracy(Ensemble([student]), _images(manifest, "test"))


def _images(manifest: str, split: str) -> tuple[Tensor, Tensor]:
    """Images of all sites and their labels."""
    sites: list[Images] = list(Data(manifest=manifest, size=32).load().split(split).values())
    return (torch.cat([site.batch(range(len(site))) for site in sites]),
            torch.cat([site.targets("labels", range(len(site))) for site in sites]))  # fmt: skip


def _accuracy(network: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Balanced accuracy: the mean over classes."""
    with torch.no_grad():
        answer = torch.cat([network(images) for images in test[0].split(256)]).argmax(1)
    return fmean(float((answer[test[1] == label] == label).float().mean()) for label in test[1].unique())


if __name__ == "__main__":
    Driver("benchmarks.experiments.distillation", __doc__ or "", RUNS, experiments, measure).main()
