"""A site by itself: its own images, and a module of its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fedcore.algorithms.properties import share_of
from fedcore.algorithms.task import Task
from fedcore.data.cohort import Cohort, with_classes
from fedcore.data.fingerprint import fingerprint
from fedcore.data.source import Data
from fedcore.errors import InputError, Refused
from fedcore.messages.agreement import Agreement, Facts
from fedcore.messages.message import Weights
from fedcore.privacy.policy import Policy
from fedcore.site.allowed import require_allowed
from fedcore.site.facts import facts_of
from fedcore.site.run.beginning import Beginning
from fedcore.site.run.start_weights import StartWeights
from fedcore.site.runtime import Workplace
from fedcore.training.checksum import checksum_of
from fedcore.training.local_trainer import LocalTrainer

MOST_MASK_CLASSES = 256
"""The numbers that a mask of bytes can hold. A model has memory for each class that is agreed on."""


@dataclass
class OwnData:
    """`SiteRuntime.facts` and `SiteRuntime.settle` of one hospital that runs by itself."""

    name: str
    task: Task
    data: Data
    """Where this site's images are; what the recipe says of size, slices and scaling, and the site's own manifest."""
    policy: Policy
    beginning: Beginning | None = None
    """What it noted when the run began; None: a run in tests, of which nothing is noted."""
    start: StartWeights | None = None
    """The weights that the run starts from, where these are not those of a freshly built module."""
    _settled: dict[Agreement | None, Workplace] = field(default_factory=dict)

    def facts(self) -> Facts:
        """Raises Refused where the manifest has no images of this site."""
        cohort = self._cohort(self.data)
        train, test = self.task.parts(cohort)
        if self.name not in train and self.name not in test:
            raise Refused("its manifest has no images of this site that the recipe can use")
        own, held = train.get(self.name), test.get(self.name)
        digest = self._same_images(cohort)
        return facts_of(
            held.take([]) if own is None and held is not None else own or cohort.sites[self.name].take([]),
            None if held is None else held.select("test"),  # validation images are counted below
            self.policy, cohort.classes, self.task.mask_classes(cohort), digest,
            len(cohort.sites[self.name].select("val")),
        )  # fmt: skip

    def receive(self, agreement: Agreement | None, weights: Weights) -> None:
        """Weights that the server sent for the start of the run; `settle` looks at them."""
        if self.start is not None and agreement not in self._settled:
            self.start.received = weights.tensors

    def settle(self, agreement: Agreement | None) -> Workplace:
        """Images and module as agreed; made once.

        Raises:
            Refused: Nothing was agreed on yet, or the images cannot be had as agreed.
            InputError: The site's policy does not allow what the recipe would send.
        """
        if agreement not in self._settled:
            if agreement is None:
                raise Refused("there is no agreement yet; request the facts first")
            self._settled = {agreement: self._built(agreement)}
        return self._settled[agreement]

    def _built(self, agreement: Agreement) -> Workplace:
        if agreement.mask_classes > MOST_MASK_CLASSES:
            raise Refused(f"masks have at most {MOST_MASK_CLASSES} classes, {agreement.mask_classes} were agreed on")
        cohort = self._cohort(self.data)
        self._same_images(cohort)
        if cohort.channels != agreement.channels:
            cohort = self._cohort(replace(self.data, channels=agreement.channels))
        if cohort.size != agreement.size:
            raise Refused(f"its images have {cohort.size} pixels, the agreed size is {agreement.size}")
        if unknown := sorted({*cohort.classes} - {*agreement.classes}):
            raise Refused(f"{len(unknown)} of its classes are not among the agreed ones; its images have changed")
        cohort = with_classes(cohort, agreement.classes)
        module = self.task.module(agreement)
        if agreement.start:
            if self.start is None:
                raise Refused("it keeps no weights that a run starts from")
            self.start.load(module, agreement.start)
        checksum = checksum_of(module)
        local = LocalTrainer(module, share_of(self.task.algorithm, module), self.task.visit)
        words = self.task.words(agreement, module)
        try:
            require_allowed(self.policy, words, local)
        except InputError as e:
            raise Refused(str(e)) from e
        train, test = self.task.parts(cohort, module)
        held = test.get(self.name)
        own = train.get(self.name, cohort.sites[self.name].take([]))
        self.task.visit.require_supported(own.space)
        return Workplace(own, held, local, words, checksum)

    def _same_images(self, cohort: Cohort) -> str:
        """The digest of its images. Raises Refused where the run began with others."""
        digest = fingerprint(cohort)
        if self.beginning is not None:
            self.beginning.require_images(digest)
        return digest

    def _cohort(self, data: Data) -> Cohort:
        return replace(data, sites=(self.name,)).load()
