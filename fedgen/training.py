"""`fedpretrain generate train`: several hospitals train a generator of images together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from pytorch_lightning import LightningModule

from fedcore.algorithms.base import Algorithm, FedAvg, Visitor, share_of
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images, Target
from fedcore.data.findings import findings_of, is_multi_label, with_findings
from fedcore.data.labels import hide_labels, hide_masks, require_fraction
from fedcore.data.source import Data
from fedcore.data.summary import summarize
from fedcore.errors import InputError, building
from fedcore.messages.agreement import Agreement
from fedcore.messages.message import Reveals
from fedcore.messages.request import FAREWELL, TRAIN
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.seeds import seeded
from fedcore.server.farewell import say_farewell
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.server.sites import Sites
from fedcore.site.farewell import Farewell
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.simulation import agreed, by_workers, simulate_task
from fedgen.diffusion.diffusion import Diffusion
from fedgen.generative import Generative
from fedgen.generator import Conditions, ImageShape
from fedgen.generator_store import GENERATOR, save_generator
from fedgen.sample_gallery import Exhibit
from fedgen.synthetic.class_counts import COUNT, CountClasses, counted, own_counts, with_counts
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
        travel
            (fedgen.federated.feddiffuse.UDec, fedcore.algorithms.local_only.LocalOnly), sites/NAME/generator is each
            site's own.
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
    task = Generation(algorithm or FedAvg(), visit, generator, by_site, label_fraction, seed, cohort.extra_sites)
    if not (names := tuple(cohort.split("train"))):
        raise InputError("no site has a training image; give some rows of the manifest the split 'train'")
    require_encodable((cohort.channels, *cohort.size))
    agreement = replace(agreed(cohort), sites=names)
    module = task.module(agreement)
    local = LocalTrainer(module, share_of(task.algorithm, module), visit)
    simulation = simulate_task(task, cohort, local, agreement, policy, run.path / "sites", run.digest)
    about = summarize(cohort) | {"command": "generate", "label_fraction": label_fraction}
    job = Job(task.algorithm, rounds, None, loggers, seed)
    sites = job.train_in(run, local, simulation, about, by_workers(workers))
    finish(run, sites, local, seed, policy.max_level >= Reveals.STATISTICS)


@dataclass(frozen=True)
class Generation:
    """What server and sites build from a recipe of `generate train`, see `fedcore.algorithms.task.Task`."""

    algorithm: Algorithm
    visit: Visit
    generator: Callable[[ImageShape, Conditions], Generative]
    by_site: bool
    label_fraction: float
    seed: int
    extra_sites: frozenset[str] = frozenset()
    """Sites whose labels cost nothing."""

    def module(self, agreement: Agreement) -> Generative:
        known = Conditions(agreement.classes, agreement.sites if self.by_site else ())
        with seeded(self.seed), building("the generator or its network"):
            return self.generator(ImageShape(agreement.channels, agreement.size), known)

    def words(self, agreement: Agreement, module: LightningModule) -> Mapping[str, Visitor]:
        made = cast(Generative, module)
        whole = is_whole(made, share_of(self.algorithm, made))
        files = (*(() if whole else (OwnGenerator(),)), Exhibit(sites=len(agreement.sites), whole=whole))
        count = CountClasses(len(made.generator.known.classes))
        return {TRAIN: self.algorithm, COUNT: count, FAREWELL: Farewell(files, own=made.draws)}

    def parts(
        self, cohort: Cohort, module: LightningModule | None = None
    ) -> tuple[dict[str, Images], dict[str, Images]]:
        """All training images, with the labels and masks that sites give away."""
        targets: Target | Sequence[Target] = module.targets if isinstance(module, Generative) else ()
        return _given(cohort, cohort.split("train"), targets, self.label_fraction, self.seed), {}

    def structures(self, cohort: Cohort) -> int:
        return 0


def is_whole(module: Generative, share: tuple[str, ...]) -> bool:
    """Whether all that draws travels, so that the federation has a generator."""
    return all(name.startswith(share) for name in module.state_dict() if name.startswith(module.draws))


def finish(run: RunFolder, sites: Sites, local: LocalTrainer, seed: int, counts_allowed: bool) -> None:
    """At the server: saves the federation's generator, or lets each site save its own."""
    module, count = cast(Generative, local.module), run.about()["rounds"]
    turn, weights = Round(count, count, seed), local.shared()
    if is_whole(module, local.share):
        made = module.generator
        counts = counted(sites, made.known, turn) if counts_allowed else None
        save_generator(run.path / GENERATOR, replace(made, known=with_counts(made.known, counts)))
    told = say_farewell(sites, weights, sites.training, turn)
    run.close("finished", notes=[*run.about()["notes"], *told.notes])


@dataclass(frozen=True)
class OwnGenerator:
    """The generator of a site that has a part of one to itself; it stays there."""

    @property
    def what(self) -> str:
        return "generator"

    def make(self, site: Site, local: LocalTrainer) -> None:
        if not site.memory or site.folder is None:  # no visit of it succeeded, and its part is as it was made
            return
        made = cast(Generative, local.module).generator
        counts = own_counts(site, made.known) if site.policy.max_level >= Reveals.STATISTICS else None
        save_generator(site.folder / GENERATOR, replace(made, known=with_counts(made.known, counts, site.name)))


def _given(
    cohort: Cohort, images: dict[str, Images], targets: Target | Sequence[Target], fraction: float, seed: int
) -> dict[str, Images]:
    """The images with the labels and masks that sites give away; those of further sites cost nothing."""
    if fraction == 1:
        return images
    told = (
        with_findings(cohort, findings_of(cohort.classes)).split("train") if is_multi_label(cohort.classes) else images
    )
    less = {
        site: replace(own, labels=hide_labels(told[site], fraction, seed).labels)
        for site, own in images.items()
        if site not in cohort.extra_sites
    }
    if "masks" in targets:
        less = {site: hide_masks(own, fraction, seed) for site, own in less.items()}
    return images | less
