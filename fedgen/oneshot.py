"""`fedpretrain generate distil`: one classifier learns what the classifiers of a finished run know, without an image of
a patient.

It is written as a finetune run, so that `fedpretrain evaluate` scores it. What a site's whole classifier reveals when
it leaves once stands in fedcore.handover; with a set of `generate invert --each true`, images and what a site's
classifier says of them leave instead: SAMPLES, which only an audit may pass, and no weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from fedcore.classifiers import fresh_classifier, save_classifier
from fedcore.errors import InputError
from fedcore.files import write_atomically, write_json
from fedcore.progress import Counting
from fedcore.run import RunFolder
from fedgen.distil import Distillation, Lesson, along, shuffled, softened
from fedgen.drawn import DrawnSet
from fedgen.ensemble import Tuned, answers
from fedgen.inversion import Inversion
from fedgen.invert import digests, require_memory
from fedgen.sampling import noise_of


def distil(
    run: Path,
    out: Path,
    drawn: Path | None = None,
    distillation: Distillation = Distillation(),
    inversion: Inversion = Inversion(),
    seed: int = 0,
    batch_size: int = 256,
) -> Path:
    """Distils the classifiers of a finished finetune run into a new one and returns the folder of its run.

    The defaults are the 50,000 steps of the student of FedISCA's code, for a GPU. A few hundred teach nothing that can
    be relied on (recipes/oneshot.yaml).

    Args:
        run: A finished run of `finetune`; of LocalOnly: one-shot federation.
        out: Folder of the student's run.
        drawn: A set to learn from: images of a site are answered by its classifier, others by all together
            (MediSecFed); null: images are inverted anew at every epoch, and all on their way teach (FedISCA).
        distillation: How the student learns.
        inversion: How images are moved, without `drawn`; of its steps each is one of the student's.
        seed: Of the student's first weights, noise and order.
        batch_size: Images a step.
    """
    if batch_size < 2:
        raise InputError(f"batch_size must be at least 2, for batch norm, got {batch_size}")
    tuned, result = Tuned.open(Path(run)), RunFolder(Path(out))
    result.prepare()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = fresh_classifier(tuned.run, seed).to(device)
    if drawn is None:
        require_memory(tuned, inversion)
        courses = _walks(tuned, student, distillation, inversion, seed, batch_size, device)
    else:
        courses = _passes(tuned, DrawnSet.open(Path(drawn)), distillation, seed, batch_size, device)
    with Counting("epochs of distillation") as counting:
        for epoch, _ in enumerate(distillation.teach(student, courses), start=1):
            counting(epoch, distillation.epochs)
    how = {"distillation": distillation, "inversion": None if drawn else inversion}
    told = {key: setting and dataclasses.asdict(setting) for key, setting in how.items()}
    _write(tuned.run, result, student, digests(tuned.networks) | told | {"seed": seed, "batch_size": batch_size})
    return result.path


def _walks(
    tuned: Tuned, student: nn.Module, how: Distillation, inversion: Inversion, seed: int, batch_size: int,
    device: torch.device,
) -> Iterator[Iterator[Lesson]]:  # fmt: skip
    """FedISCA: each epoch from new noise, with classes in turn."""
    ensemble = tuned.together().to(device)
    labels = torch.arange(batch_size, device=device) % len(tuned.known.classes)
    for epoch in range(how.epochs):
        numbers = range(epoch * batch_size, (epoch + 1) * batch_size)
        noise = noise_of(seed, numbers, tuned.canvas.shape).to(device)
        walk = inversion.walk(ensemble, noise, labels, (seed, epoch), student)
        yield along(walk, inversion.steps, ensemble, how.temperature)


def _passes(
    tuned: Tuned, drawn: DrawnSet, how: Distillation, seed: int, batch_size: int, device: torch.device
) -> Iterator[Iterator[Lesson]]:
    """MediSecFed: passes over the images of a set, answered by the site that an image imitates where it has a
    classifier of its own, else by all together."""
    images = drawn.pixels().float()
    if images.shape[1:] != tuned.canvas.shape:
        found, wanted = (" x ".join(map(str, shape)) for shape in (images.shape[1:], tuned.canvas.shape))
        raise InputError(f"the classifiers take images of {wanted} (channels first), {drawn.folder} holds {found}")
    own = [image.imitates if image.imitates in tuned.networks else None for image in drawn.images]
    soft = softened(answers(tuned.teachers(own), own, images, batch_size), how.temperature)
    for epoch in range(how.epochs):
        yield shuffled(images.to(device), soft.to(device), batch_size, (seed, epoch))


def _write(source: RunFolder, result: RunFolder, student: nn.Module, how: dict[str, object]) -> None:
    save_classifier(result, student)
    write_atomically(result.path / "recipe.yaml", (source.path / "recipe.yaml").read_bytes())
    write_json(result.path / "run.json", source.about() | {"status": "finished", "distilled": how})
