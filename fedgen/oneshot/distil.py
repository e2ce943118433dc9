"""`fedpretrain generate distil`: distils the classifiers of a finished run into one, without images of patients.

The result is a finetune run, so `fedpretrain evaluate` scores it. What a site's whole classifier reveals when it leaves
the site once is described in fedcore.site.one_shot. With a set of `generate invert --per_site true`, images and the
predictions of a site's classifier leave instead, and no weights: SAMPLES, which are released by an audit alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedcore.errors import InputError
from fedcore.messages.message import Message
from fedcore.messages.reveals import WEIGHTS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.classifiers import fresh_classifier, save_classifier
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import Counting
from fedcore.seeds import seeded
from fedcore.training.optimizer_state import load_state, state_of
from fedgen.oneshot.distillation import Distillation, TeacherBatch
from fedgen.oneshot.ensemble import TrainedClassifiers
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import digest_of_weights, digests, require_batch_norm
from fedgen.oneshot.teacher_accuracy import TeacherAccuracy
from fedgen.oneshot.teacher_data import InversionData, SetData, TeacherData
from fedgen.synthetic.synthetic_set import TEACHER_ACCURACY, SyntheticSet

MEAN, RANDOM = "mean", "random"


def distil(
    run: Path,
    out: Path,
    synthetic: Path | None = None,
    distillation: Distillation = Distillation(),
    inversion: Inversion = Inversion(),
    start: str | None = None,
    seed: int = 0,
    batch_size: int = 256,
    resume: bool = False,
) -> Path:
    """Distils the classifiers of a finished finetune run into a new one and returns the folder of its run.

    The defaults are the 50,000 steps of the student of FedISCA's code, for a GPU. A student of a few hundred steps is
    not reliable (recipes/classify/oneshot.yaml). Without `synthetic`, run.json holds, class by class and over all
    epochs, how many images at the end of a trajectory a held-out classifier assigns to their class
    (fedgen.oneshot.teacher_accuracy).

    Args:
        run: A finished run of `finetune`; of LocalOnly: one-shot federation.
        out: Folder of the student's run.
        synthetic: A synthetic set to train on: the soft targets of an image in the style of a site come from the
            classifier of that site, others from all together (MediSecFed). null: new images are inverted in every
            epoch, and all steps of their trajectories are training data (FedISCA).
        distillation: How the student is trained.
        inversion: How images are optimised, without `synthetic`; each of its steps is a training step of the student.
        start: First weights of the student: `random`; `mean`, the mean of the classifiers' weights, which leave their
            sites for it; a pretraining run or an encoder's folder. null: `mean` where several classifiers leave their
            sites anyway, without `synthetic`; else `random`.
        seed: Of the student's first weights, noise and order.
        batch_size: Images per step.
        resume: Continue the run in `out` after its last complete epoch.
    """
    if batch_size < 2:
        raise InputError(f"batch_size must be at least 2, for batch norm, got {batch_size}")
    trained = TrainedClassifiers.open(Path(run))
    images = SyntheticSet.open(Path(synthetic)) if synthetic else None
    start = start or (MEAN if images is None and len(trained.networks) > 1 else RANDOM)
    student = fresh_classifier(trained.run, seed)
    if start not in (MEAN, RANDOM):
        load_encoder(find_encoder(Path(start)), student.get_submodule("encoder"))
    settings = {
        **digests(trained.networks), "synthetic": images and images.digest(), "seed": seed, "batch_size": batch_size,
        "start": start if start in (MEAN, RANDOM) else digest_of_weights(student.get_submodule("encoder")),
        "distillation": dataclasses.asdict(distillation),
        "inversion": None if synthetic else dataclasses.asdict(inversion),
    }  # fmt: skip
    recipe = (trained.run.path / "recipe.yaml").read_text(encoding="utf-8")
    result = RunFolder(Path(out), recipe, resume, {"distilled": settings})
    result.prepare()
    if images is None:
        require_batch_norm(trained, inversion)
    if start == MEAN:
        student.load_state_dict(trained.mean_weights())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student.to(device)
    if images is None:
        data: TeacherData = InversionData.of(trained, student, inversion, distillation.temperature, batch_size, seed)
    else:
        data = SetData.of(trained, images, distillation.temperature, batch_size, seed, device)
    checkpoint = result.begin(trained.run.about() | {TEACHER_ACCURACY: {}})
    try:
        accuracy = _train(student, data, distillation, seed, checkpoint, len(trained.conditions.classes))
    except BaseException as e:
        result.broke(e)
        raise
    save_classifier(result, student)
    result.close("finished", **{TEACHER_ACCURACY: accuracy.by_class(trained.conditions.classes)})
    return result.path


@dataclass(frozen=True)
class StudentState(Message):
    """The student after an epoch, with all state that the next epoch needs."""

    student: Tensors = field(metadata=WEIGHTS)
    optimizer: Tensors = field(metadata=WEIGHTS)
    accuracy: TeacherAccuracy

    @classmethod
    def of(cls, student: nn.Module, optimizer: SGD, accuracy: TeacherAccuracy) -> StudentState:
        return cls(student.state_dict(), state_of(optimizer), accuracy)

    def load_into(self, student: nn.Module, optimizer: SGD) -> None:
        student.load_state_dict(self.student)
        load_state(optimizer, self.optimizer)


def _train(
    student: nn.Module, data: TeacherData, how: Distillation, seed: int, checkpoint: Checkpoint, classes: int
) -> TeacherAccuracy:
    """Trains up to the last epoch; each epoch is committed like a round."""
    optimizer = how.optimizer(student)
    state = StudentState.of(student, optimizer, TeacherAccuracy.zero(classes))
    if checkpoint.rounds:
        state = checkpoint.restore(state)
        state.load_into(student, optimizer)
    with Counting("epochs of distillation", checkpoint.rounds) as counting:
        for epoch in range(checkpoint.rounds, how.epochs):
            batches = _LastImages(data.batches(epoch))
            with seeded(Round(epoch, how.epochs, seed).seed_of("student")):  # for a student with dropout
                how.train_epoch(student, optimizer, batches, epoch)
            accuracy = state.accuracy + data.accuracy(epoch, batches.last)
            state = StudentState.of(student, optimizer, accuracy)
            checkpoint.commit(epoch, state)
            counting(epoch + 1, how.epochs)
    return state.accuracy


@dataclass
class _LastImages:
    """Passes batches on, and keeps the images of the last one."""

    batches: Iterable[TeacherBatch]
    last: Tensor = field(default_factory=lambda: torch.empty(0))

    def __iter__(self) -> Iterator[TeacherBatch]:
        for images, targets in self.batches:
            self.last = images
            yield images, targets
