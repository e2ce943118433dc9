"""`fedpretrain generate train`: several hospitals train a generator of images together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fedcore.algorithms.base import Algorithm, FedAvg
from fedcore.data.dataset import Cohort, Images, Target
from fedcore.data.describe import describe
from fedcore.data.findings import findings_of, several, with_findings
from fedcore.data.labels import less_labelled, less_masked, require_fraction
from fedcore.data.source import Data
from fedcore.errors import InputError, building
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.seeds import seeded
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.site.site import Round
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedgen.diffusion.diffusion import Diffusion
from fedgen.generative import Generative
from fedgen.generator import Conditions, ImageShape
from fedgen.generator_store import GENERATOR, save_generator
from fedgen.sample_gallery import Exhibit
from fedgen.synthetic.class_counts import counted, with_counts
from fedgen.synthetic.image_files import require_encodable


def train(
    run: RunFolder,
    generator: Callable[[ImageShape, Conditions], Generative] = Diffusion,
    by_site: bool = True,
    label_fraction: float = 1.0,
    data: Data = Data(),
    algorithm: Algorithm | None = None,
    visit: Visit = Visit(batch_size=32),
    rounds: Rounds = Rounds(),
    policy: Policy = Policy(),
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv",),
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Trains a generator across hospitals whose images stay where they are.

    Args:
        run: Folder of the run.
        generator: What is trained, for such images and what it can be asked for.
        by_site: Tell the generator whose image it is, so that it can be asked for each hospital's look. Else it mixes
            them.
        label_fraction: Fraction of the patients of each class whose labels are used, in (0, 1], and of those with a
            mask whose masks are; all images are trained on. With the same seed finetune and segment use the same.
        data: The images.
        algorithm: How sites cooperate; null: fedcore.algorithms.base.FedAvg. Where a part of the generator does not
            travel (fedgen.federated.feddiffuse.UDec, fedcore.algorithms.local_only.LocalOnly), sites/NAME/generator is
            each site's own.
        visit: Local training in one round.
        rounds: The schedule.
        policy: What sites agree to send.
        loggers: Lightning loggers, of csv and tensorboard.
        seed: Seed of every generator.
        workers: Sites visited at the same time, each by a process of its own; several may share a GPU. 1: one after
            another in this process.
    """
    run.prepare()
    require_fraction(label_fraction)
    cohort = load(data)
    images = cohort.split("train")
    if not images:
        raise InputError("no site has a training image; give some rows of the manifest the split 'train'")
    require_encodable((cohort.channels, *cohort.size))
    known = Conditions(cohort.classes, tuple(images) if by_site else ())
    with seeded(seed), building("the generator or its network"):
        module = generator(ImageShape(cohort.channels, cohort.size), known)
    images = _given(cohort, images, module.targets, label_fraction, seed)
    job = Job(train=images, algorithm=algorithm or FedAvg(), visit=visit, rounds=rounds, policy=policy,
              loggers=loggers, seed=seed, workers=workers)  # fmt: skip
    sites = job.train_in(run, module, describe(cohort) | {"command": "generate", "label_fraction": label_fraction})
    counts = counted(sites, module.generator.known, Round(rounds.count, rounds.count, seed))
    whole = all(name.startswith(sites.local.share) for name in module.state_dict() if name.startswith(module.draws))
    _save(run, module, sites, counts, whole)
    run.close("finished", notes=[*run.about()["notes"], *Exhibit().keep(sites, module, whole)])


def _given(
    cohort: Cohort, images: dict[str, Images], targets: Target | Sequence[Target], fraction: float, seed: int
) -> dict[str, Images]:
    """The images with the labels and masks that sites give away; those of further sites cost nothing."""
    if fraction == 1:
        return images
    told = with_findings(cohort, findings_of(cohort.classes)).split("train") if several(cohort.classes) else images
    less = {
        site: replace(own, labels=less_labelled(told[site], fraction, seed).labels)
        for site, own in images.items()
        if site not in cohort.extra_sites
    }
    if "masks" in targets:
        less = {site: less_masked(own, fraction, seed) for site, own in less.items()}
    return images | less


def _save(
    run: RunFolder, module: Generative, sites: InProcess, counts: dict[str, tuple[int, ...]] | None, whole: bool
) -> None:
    """The federation's generator; or each site's own, where a part of it has not travelled and no other is whole."""

    def save(folder: Path, only: str | None = None) -> None:
        made = module.generator
        save_generator(folder / GENERATOR, replace(made, known=with_counts(made.known, counts, only)))

    if whole:
        save(run.path)
        return
    for name in sites.names():
        site = sites.site(name)
        if site.memory:  # else no visit of it succeeded, and its part is as it was made
            with sites.local.at(site):
                save(run.site(name), name)
