"""`fedpretrain generate train`: several sites train a generator of images together."""

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
from fedgen.generative_model import GenerativeModel
from fedgen.generator import Conditions, ImageShape
from fedgen.generator_store import GENERATOR, save_generator
from fedgen.sample_gallery import SampleGallery
from fedgen.synthetic.class_counts import collect_class_counts, with_image_counts
from fedgen.synthetic.image_files import require_encodable


def train(
    run: RunFolder,
    generator: Callable[[ImageShape, Conditions], GenerativeModel] = Diffusion,
    condition_on_site: bool = True,
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
    """Trains a generator across sites whose images stay there.

    Args:
        run: Folder of the run.
        generator: The model that is trained.
        condition_on_site: Condition the generator on the site, so that it can generate images in the style of each
            site. Else it mixes the styles.
        label_fraction: Fraction of the patients of each class whose labels are used, in (0, 1], and of the patients
            with masks whose masks are used; all images are used. finetune and segment choose the same patients if the
            seed is the same.
        data: The images.
        algorithm: The federated algorithm; null: fedcore.algorithms.base.FedAvg. If a part of the generator stays at
            the sites (fedgen.federated.feddiffuse.UDec, fedcore.algorithms.local_only.LocalOnly), each site has its own
            in sites/NAME/generator.
        visit: Local training in one round.
        rounds: The schedule.
        policy: What sites may send.
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
    conditions = Conditions(cohort.classes, tuple(images) if condition_on_site else ())
    with seeded(seed), building("the generator or its network"):
        module = generator(ImageShape(cohort.channels, cohort.size), conditions)
    images = _given(cohort, images, module.targets, label_fraction, seed)
    job = Job(train=images, algorithm=algorithm or FedAvg(), visit=visit, rounds=rounds, policy=policy,
              loggers=loggers, seed=seed, workers=workers)  # fmt: skip
    sites = job.train_in(run, module, describe(cohort) | {"command": "generate", "label_fraction": label_fraction})
    counts = collect_class_counts(sites, module.generator.conditions, Round(rounds.count, rounds.count, seed))
    weights = [name for name in module.state_dict() if name.startswith(module.generator_prefix)]
    whole = all(name.startswith(sites.local.share) for name in weights)
    _save(run, module, sites, counts, whole)
    run.close("finished", notes=[*run.about()["notes"], *SampleGallery().keep(sites, module, whole)])


def _given(
    cohort: Cohort, images: dict[str, Images], targets: Target | Sequence[Target], fraction: float, seed: int
) -> dict[str, Images]:
    """The images with this fraction of the labels and masks; extra sites keep all of theirs."""
    if fraction == 1:
        return images
    findings = with_findings(cohort, findings_of(cohort.classes)).split("train") if several(cohort.classes) else images
    less = {
        site: replace(own, labels=less_labelled(findings[site], fraction, seed).labels)
        for site, own in images.items()
        if site not in cohort.extra_sites
    }
    if "masks" in targets:
        less = {site: less_masked(own, fraction, seed) for site, own in less.items()}
    return images | less


def _save(
    run: RunFolder, module: GenerativeModel, sites: InProcess, counts: dict[str, tuple[int, ...]] | None, whole: bool
) -> None:
    """Saves the federation's generator if it is `whole`; else each site's own, since a part of it stays there."""

    def save(folder: Path, only: str | None = None) -> None:
        generator = module.generator
        conditions = with_image_counts(generator.conditions, counts, only)
        save_generator(folder / GENERATOR, replace(generator, conditions=conditions))

    if whole:
        save(run.path)
        return
    for name in sites.names():
        site = sites.site(name)
        if site.memory:  # else no visit succeeded, and its part is untrained
            with sites.local.at(site):
                save(run.site(name), name)
