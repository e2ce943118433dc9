"""`fedpretrain generate distil`: one classifier learns what the classifiers of a finished run know, without an image of
a patient.

It is written as a finetune run, so that `fedpretrain evaluate` scores it. What a site's whole classifier reveals when
it leaves once stands in fedcore.site.one_shot; with a set of `generate invert --each true`, images and what a site's
classifier says of them leave instead: SAMPLES, which only an audit may pass, and no weights.
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
from fedcore.messages.message import WEIGHTS, Message, Tensors
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.classifiers import fresh_classifier, save_classifier
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import Counting
from fedcore.seeds import seeded
from fedcore.site.site import Round
from fedcore.training.optimizer_state import load_state, state_of
from fedgen.oneshot.distillation import Distillation, Lesson
from fedgen.oneshot.ensemble import Tuned
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import digest_of_weights, digests, require_memory
from fedgen.oneshot.teacher_accuracy import Recognition
from fedgen.oneshot.teacher_data import Course, Passes, Walks
from fedgen.synthetic.synthetic_set import SyntheticSet

MEAN, RANDOM = "mean", "random"


def distil(
    run: Path,
    out: Path,
    drawn: Path | None = None,
    distillation: Distillation = Distillation(),
    inversion: Inversion = Inversion(),
    start: str | None = None,
    seed: int = 0,
    batch_size: int = 256,
    resume: bool = False,
) -> Path:
    """Distils the classifiers of a finished finetune run into a new one and returns the folder of its run.

    The defaults are the 50,000 steps of the student of FedISCA's code, for a GPU. A few hundred teach nothing that can
    be relied on (recipes/classify/oneshot.yaml). Without `drawn`, run.json has how many images at the end of each
    epoch's walk a classifier that had no part in them recognises as their class, class by class, over all epochs
    (fedgen.oneshot.teacher_accuracy).

    Args:
        run: A finished run of `finetune`; of LocalOnly: one-shot federation.
        out: Folder of the student's run.
        drawn: A set to learn from: images of a site are answered by its classifier, others by all together
            (MediSecFed); null: images are inverted anew at every epoch, and all on their way teach (FedISCA).
        distillation: How the student learns.
        inversion: How images are moved, without `drawn`; of its steps each is one of the student's.
        start: What the student begins as: `random`; `mean`, the mean of the classifiers' weights, which leave their
            sites for it; a pretraining run or an encoder's folder. null: `mean` where several classifiers leave their
            sites anyway, without `drawn`; else `random`.
        seed: Of the student's first weights, noise and order.
        batch_size: Images a step.
        resume: Go on with the run in `out`, from its last whole epoch.
    """
    if batch_size < 2:
        raise InputError(f"batch_size must be at least 2, for batch norm, got {batch_size}")
    tuned, images = Tuned.open(Path(run)), SyntheticSet.open(Path(drawn)) if drawn else None
    start = start or (MEAN if images is None and len(tuned.networks) > 1 else RANDOM)
    student = fresh_classifier(tuned.run, seed)
    if start not in (MEAN, RANDOM):
        load_encoder(find_encoder(Path(start)), student.get_submodule("encoder"))
    asked = {
        **digests(tuned.networks), "drawn": images and images.digest(), "seed": seed, "batch_size": batch_size,
        "start": start if start in (MEAN, RANDOM) else digest_of_weights(student.get_submodule("encoder")),
        "distillation": dataclasses.asdict(distillation), "inversion": None if drawn else dataclasses.asdict(inversion),
    }  # fmt: skip
    recipe = (tuned.run.path / "recipe.yaml").read_text(encoding="utf-8")
    result = RunFolder(Path(out), recipe, resume, {"distilled": asked})
    result.prepare()
    if images is None:
        require_memory(tuned, inversion)
    if start == MEAN:
        student.load_state_dict(tuned.mean())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student.to(device)
    if images is None:
        course: Course = Walks.of(tuned, student, inversion, distillation.temperature, batch_size, seed)
    else:
        course = Passes.of(tuned, images, distillation.temperature, batch_size, seed, device)
    checkpoint = result.begin(tuned.run.about() | {"recognition": {}})
    try:
        recognition = _learn(student, course, distillation, seed, checkpoint, len(tuned.known.classes))
    except BaseException as e:
        result.broke(e)
        raise
    save_classifier(result, student)
    result.close("finished", recognition=recognition.told(tuned.known.classes))
    return result.path


@dataclass(frozen=True)
class Learned(Message):
    """The student after an epoch, with all that the next one takes."""

    student: Tensors = field(metadata=WEIGHTS)
    optimizer: Tensors = field(metadata=WEIGHTS)
    recognition: Recognition

    @classmethod
    def of(cls, student: nn.Module, optimizer: SGD, recognition: Recognition) -> Learned:
        return cls(student.state_dict(), state_of(optimizer), recognition)

    def into(self, student: nn.Module, optimizer: SGD) -> None:
        student.load_state_dict(self.student)
        load_state(optimizer, self.optimizer)


def _learn(
    student: nn.Module, course: Course, how: Distillation, seed: int, checkpoint: Checkpoint, classes: int
) -> Recognition:
    """Goes on to the last epoch; each is committed as a round is."""
    optimizer = how.optimizer(student)
    learned = Learned.of(student, optimizer, Recognition.none(classes))
    if checkpoint.rounds:
        learned = checkpoint.restore(learned)
        learned.into(student, optimizer)
    with Counting("epochs of distillation", checkpoint.rounds) as counting:
        for epoch in range(checkpoint.rounds, how.epochs):
            lessons = _Followed(course.lessons(epoch))
            with seeded(Round(epoch, how.epochs, seed).seed_of("student")):  # for a student with dropout
                how.teach(student, optimizer, lessons, epoch)
            learned = Learned.of(student, optimizer, learned.recognition + course.recognition(epoch, lessons.last))
            checkpoint.commit(epoch, learned)
            counting(epoch + 1, how.epochs)
    return learned.recognition


@dataclass
class _Followed:
    """Passes lessons on, and holds the images of the last one."""

    lessons: Iterable[Lesson]
    last: Tensor = field(default_factory=lambda: torch.empty(0))

    def __iter__(self) -> Iterator[Lesson]:
        for images, soft in self.lessons:
            self.last = images
            yield images, soft
