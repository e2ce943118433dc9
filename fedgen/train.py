"""`fedpretrain generate train`: several hospitals train a generator of images together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fedcore.algorithm import Algorithm, FedAvg
from fedcore.data.describe import describe
from fedcore.data.source import Data
from fedcore.errors import InputError, building
from fedcore.federation import Rounds
from fedcore.job import Job
from fedcore.policy import Policy
from fedcore.progress import load
from fedcore.run import RunFolder
from fedcore.seeds import seeded
from fedcore.transport import InProcess
from fedcore.visit import Visit
from fedgen.diffusion import Diffusion
from fedgen.exhibit import Exhibit
from fedgen.generative import Generative
from fedgen.generator import Canvas, Known
from fedgen.store import GENERATOR, save_generator


def train(
    run: RunFolder,
    generator: Callable[[Canvas, Known], Generative] = Diffusion,
    by_site: bool = True,
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
        data: The images.
        algorithm: How sites cooperate; null: fedcore.algorithm.FedAvg. Where a part of the generator does not travel
            (fedgen.feddiffuse.UDec, fedcore.localonly.LocalOnly), sites/NAME/generator is each site's own.
        visit: Local training in one round.
        rounds: The schedule.
        policy: What sites agree to send.
        loggers: Lightning loggers, of csv and tensorboard.
        seed: Seed of every generator.
        workers: Sites visited at the same time, each by a process of its own; several may share a GPU. 1: one after
            another in this process.
    """
    run.prepare()
    cohort = load(data)
    images = cohort.split("train")
    if not images:
        raise InputError("no site has a training image; give some rows of the manifest the split 'train'")
    known = Known(cohort.classes, tuple(images) if by_site else ())
    with seeded(seed), building("the generator or its network"):
        module = generator(Canvas(cohort.channels, cohort.size), known)
    job = Job(train=images, algorithm=algorithm or FedAvg(), visit=visit, rounds=rounds, policy=policy,
              loggers=loggers, seed=seed, workers=workers)  # fmt: skip
    sites = job.train_in(run, module, describe(cohort) | {"command": "generate"})
    whole = all(name.startswith(sites.local.share) for name in module.state_dict() if name.startswith(module.draws))
    _save(run, module, sites, whole)
    run.close("finished", notes=[*run.about()["notes"], *Exhibit().keep(sites, module, whole)])


def _save(run: RunFolder, module: Generative, sites: InProcess, whole: bool) -> None:
    """The federation's generator; or each site's own, where a part of it has not travelled and no other is whole."""
    if whole:
        save_generator(run.path / GENERATOR, module.generator)
        return
    for name in sites.names():
        site = sites.site(name)
        if site.memory:  # else no visit of it succeeded, and its part is as it was made
            with sites.local.at(site):
                save_generator(run.site(name) / GENERATOR, module.generator)
