"""Hospitals whose images one process has decoded, as sites of a simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from fedcore.algorithms.base import Visitor
from fedcore.algorithms.task import Task
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.errors import InputError
from fedcore.messages.agreement import Agreement
from fedcore.messages.answer import Refusal
from fedcore.messages.message import Empty
from fedcore.messages.request import HAND_OVER, TRAIN, Request
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import ANSWERS, note
from fedcore.runs.folder import RunFolder
from fedcore.site.allowed import require_allowed
from fedcore.site.facts import facts_of
from fedcore.site.memory import FOLDER, MemoryInRam, MemoryOnDisk
from fedcore.site.one_shot import HandOver, Whole
from fedcore.site.runtime import KnownFacts, Ready, SiteRuntime, Workplace
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.base import Transport
from fedcore.transport.in_process import InProcess
from fedcore.transport.workers import Workers


def simulate(
    train: Mapping[str, Images], local: LocalTrainer, words: Mapping[str, Visitor], *,
    test: Mapping[str, Images] | None = None, policy: Policy = Policy(), folder: Path | None = None,
    classes: Sequence[str] = (), mask_classes: int = 0, recipe: str = "",
) -> InProcess:  # fmt: skip
    """Sites that share one module, of images that were decoded together.

    Args:
        train: What each site trains on.
        local: The module, lent to one site after another.
        words: What sites can be asked for.
        test: What each site evaluates on; a site may have test images alone.
        policy: Of every site.
        folder: Parent of the sites' own folders; None: nothing is written, and memories are in RAM.
        classes: Names of the classes.
        mask_classes: Of segmenters: one more than the highest number in masks.
        recipe: Digest of the recipe.

    Raises:
        InputError: The policy does not allow what the recipe would send, or torch would train wrongly on such images.
    """
    test = test or {}
    if train and TRAIN in words:
        require_allowed(policy, words, local)
        for images in train.values():
            local.visit.require_supported(images.space)
    sites = {}
    for name in dict.fromkeys([*train, *test]):
        own, held = train.get(name, test[name].take([]) if name in test else None), test.get(name)
        assert own is not None
        facts = facts_of(own, held, policy, tuple(classes), mask_classes)
        home = folder / name if folder else None
        memory = MemoryOnDisk(home / FOLDER) if home else MemoryInRam()
        place = Workplace(own, held, local, words)
        sites[name] = SiteRuntime(name, KnownFacts(facts), Ready(place), policy, memory, home, recipe)
    return InProcess(sites)


def hand_over(run: RunFolder, site: str, tensors: Tensors) -> Tensors:
    """The own model of a site of a finished simulation leaves it: audited by the site, booked in the run's record.

    WEIGHTS, the lowest level, every policy allows.
    """
    run.require_own()
    about = run.about()
    trained_on, rounds = about.get("sites", {}).get(site, {}).get("train", 0), about.get("rounds", 0)
    nothing = Images(site, np.zeros((0, 1, 1, 1), np.float16), np.array([]), torch.zeros(0).long(), np.zeros(0, int))
    place = Workplace(nothing, None, None, {HAND_OVER: HandOver(lambda _: tensors, trained_on)})
    facts = facts_of(nothing, None, Policy())
    runtime = SiteRuntime(
        site, KnownFacts(facts), Ready(place), Policy(Reveals.WEIGHTS), folder=run.site(site), recipe=run.digest
    )
    request = Request(site, HAND_OVER, Empty(), Round(rounds, rounds, 0), run=run.name)
    (answer,) = InProcess({site: runtime}).ask([request])
    note(run.path / ANSWERS, HAND_OVER, site, Empty(), answer)
    if isinstance(answer, Refusal) or not isinstance(answer.message, Whole):
        raise InputError(f"{site} did not send its model")
    return answer.message.tensors


def by_workers(count: int) -> Callable[[Transport], AbstractContextManager[Transport]]:
    """Visits of a simulation by so many processes at a time; 1: one after another in this process.

    Raises:
        InputError: The number is not positive.
    """
    if count < 1:
        raise InputError(f"workers must be at least 1, got {count}")

    def through(sites: Transport) -> AbstractContextManager[Transport]:
        return Workers(sites, count) if count > 1 and isinstance(sites, InProcess) else nullcontext(sites)

    return through


def agreed(cohort: Cohort, mask_classes: int = 0) -> Agreement:
    """What sites that were decoded together have in common."""
    return Agreement(cohort.classes, cohort.channels, cohort.size, tuple(cohort.sites), mask_classes)


def simulate_task(
    task: Task, cohort: Cohort, local: LocalTrainer, agreement: Agreement, policy: Policy, folder: Path, recipe: str
) -> InProcess:
    """The sites of a cohort for a task; `folder` is the parent of their own folders."""
    module = local.module
    train, test = task.parts(cohort, module)
    simulation = simulate(
        train, local, task.words(agreement, module), test=test, policy=policy, folder=folder, classes=cohort.classes,
        mask_classes=agreement.mask_classes, recipe=recipe,
    )  # fmt: skip
    # In the cohort's order, on which sums over sites depend.
    return InProcess({name: simulation.sites[name] for name in cohort.sites if name in simulation.sites})
