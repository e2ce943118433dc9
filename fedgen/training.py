"""`fedpretrain generate train`: several sites train a generator of images together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from pytorch_lightning import LightningModule

from fedcore.algorithms.base import Algorithm, Visitor
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images, Target
from fedcore.data.findings import findings_of, is_multi_label, with_findings
from fedcore.data.labels import hide_labels, hide_masks, require_fraction
from fedcore.data.source import Data
from fedcore.data.summary import summarize
from fedcore.errors import InputError, building
from fedcore.messages.agreement import Agreement
from fedcore.messages.request import FAREWELL, TRAIN
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.report.site_page import SitePage
from fedcore.runs.folder import RunFolder
from fedcore.seeds import seeded
from fedcore.server.farewell import say_farewell
from fedcore.server.job import Job
from fedcore.server.rounds import Rounds
from fedcore.server.sites import Sites
from fedcore.site.farewell import Farewell
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.read_images import read_images
from fedcore.transport.simulation import agreed, by_workers, simulate_task
from fedgen.auditing.allowance import AUDIT_SET, CountedAudit
from fedgen.auditing.audit import Audit
from fedgen.diffusion.diffusion import Diffusion
from fedgen.generative_model import GenerativeModel
from fedgen.generator import Conditions, ImageShape
from fedgen.generator_store import GENERATOR, save_generator
from fedgen.sample_gallery import SampleGallery
from fedgen.synthetic.class_counts import (
    COUNT,
    CountClasses,
    collect_class_counts,
    own_class_counts,
    with_image_counts,
)
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
        algorithm: The federated algorithm; null: fedcore.algorithms.fedavg.FedAvg. If a part of the generator stays at
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
    cohort = read_images(data)
    task = Generation(algorithm or FedAvg(), visit, generator, condition_on_site, label_fraction, seed)
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
    """The training of `generate train`, as server and sites build it (`fedcore.algorithms.task.Task`)."""

    algorithm: Algorithm
    visit: Visit
    generator: Callable[[ImageShape, Conditions], GenerativeModel]
    condition_on_site: bool
    label_fraction: float
    seed: int

    def module(self, agreement: Agreement) -> GenerativeModel:
        conditions = Conditions(agreement.classes, agreement.sites if self.condition_on_site else ())
        with seeded(self.seed), building("the generator or its network"):
            return self.generator(ImageShape(agreement.channels, agreement.size), conditions)

    def words(self, agreement: Agreement, module: LightningModule) -> Mapping[str, Visitor]:
        model = cast(GenerativeModel, module)
        whole = is_whole(model, share_of(self.algorithm, model))
        gallery = SampleGallery(sites=len(agreement.sites), whole=whole)
        page = SitePage("generate", agreement)
        files = (gallery, page) if whole else (OwnGenerator(), gallery, page)
        count = CountClasses(len(model.generator.conditions.classes))
        audit = CountedAudit(Audit(Conditions(agreement.classes, agreement.sites)))
        farewell = Farewell(files, own=model.generator_prefix)
        return {TRAIN: self.algorithm, COUNT: count, FAREWELL: farewell, AUDIT_SET: audit}

    def parts(
        self, cohort: Cohort, module: LightningModule | None = None
    ) -> tuple[dict[str, Images], dict[str, Images]]:
        """All training images, with the labels and masks that are used; and of the same sites all images that are held
        out, for audits."""
        targets: Target | Sequence[Target] = module.targets if isinstance(module, GenerativeModel) else ()
        train, held_out = cohort.split("train"), cohort.held_out()
        given = _given(cohort, train, targets, self.label_fraction, self.seed)
        return given, {site: images for site, images in held_out.items() if site in train}

    def mask_classes(self, cohort: Cohort) -> int:
        return 0


def task_of(recipe: Mapping[str, Any]) -> Generation:
    """Of a recipe that was read and built."""
    settings = [recipe[key] for key in ("visit", "generator", "condition_on_site", "label_fraction", "seed")]
    return Generation(recipe["algorithm"] or FedAvg(), *settings)


def is_whole(module: GenerativeModel, share: tuple[str, ...]) -> bool:
    """Whether all weights that sample are shared, so that the federation has one generator."""
    weights = [name for name in module.state_dict() if name.startswith(module.generator_prefix)]
    return all(name.startswith(share) for name in weights)


def finish(run: RunFolder, sites: Sites, local: LocalTrainer, seed: int, counts_allowed: bool) -> None:
    """At the server: saves the federation's generator, or lets each site save its own."""
    module, count = cast(GenerativeModel, local.module), run.about()["rounds"]
    turn, weights = Round(count, count, seed), local.shared()
    if is_whole(module, local.share):
        generator = module.generator
        counts = collect_class_counts(sites, generator.conditions, turn) if counts_allowed else None
        conditions = with_image_counts(generator.conditions, counts)
        save_generator(run.path / GENERATOR, replace(generator, conditions=conditions))
    farewells = say_farewell(sites, weights, sites.training, turn)
    run.close("finished", notes=[*run.about()["notes"], *farewells.notes])


@dataclass(frozen=True)
class OwnGenerator:
    """The generator of a site that has a part of one to itself; it stays there."""

    @property
    def what(self) -> str:
        return "generator"

    def make(self, site: Site, local: LocalTrainer) -> None:
        if not site.memory or site.folder is None:  # no visit succeeded, and its part is untrained
            return
        generator = cast(GenerativeModel, local.module).generator
        allowed = site.policy.max_level >= Reveals.STATISTICS
        counts = own_class_counts(site, generator.conditions) if allowed else None
        conditions = with_image_counts(generator.conditions, counts, site.name)
        save_generator(site.folder / GENERATOR, replace(generator, conditions=conditions))


def _given(
    cohort: Cohort, images: dict[str, Images], targets: Target | Sequence[Target], fraction: float, seed: int
) -> dict[str, Images]:
    """The images with this fraction of the labels and masks; extra sites keep all of theirs."""
    if fraction == 1:
        return images
    findings = images
    if is_multi_label(cohort.classes):
        findings = with_findings(cohort, findings_of(cohort.classes)).split("train")
    less = {
        site: replace(own, labels=hide_labels(findings[site], fraction, seed).labels, all_labels=own.labels)
        for site, own in images.items()
        if site not in cohort.extra_sites
    }
    if "masks" in targets:
        less = {site: hide_masks(own, fraction, seed) for site, own in less.items()}
    return images | less
