"""All that a site offers: bytes in, bytes out."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

from fedcore.algorithms.base import SetsPolicy, Visitor
from fedcore.data.dataset import Images
from fedcore.errors import InputError, Refused
from fedcore.messages.agreement import Agreement, Built, Facts
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.encoding import WireError, kinds_of_messages
from fedcore.messages.message import Weights
from fedcore.messages.metric_names import DeclaredMetrics
from fedcore.messages.request import BUILD, FACTS, TRAIN, WORDS, Request
from fedcore.messages.reveals import NO_LEVELS
from fedcore.messages.round import Round
from fedcore.messages.wire import answer_bytes, request_of
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.site.allowed import allowed_metrics
from fedcore.site.memory import Memory, MemoryInRam
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer, implements

BEFORE = Round(0, 1, 0)
"""When a request cannot be read, no round is known."""
CANNOT_WRITE = (
    "it cannot write to its audit log, so nothing may leave it; at the site, free disk space or correct the "
    "permissions of its folder"
)
"""The one sentence that leaves a site without a line in its audit log. It is the same whatever was requested."""


@dataclass(frozen=True)
class Workplace:
    """What a site has built from its recipe, its images and the agreement."""

    train: Images
    test: Images | None
    local: LocalTrainer | None
    """Sites of one process share it; the module is at one of them at a time. None: no module is needed."""
    words: Mapping[str, Visitor]
    """What the recipe lets be asked: `train`, `evaluate` and others."""
    checksum: str = ""
    """Of the module as it was built (`fedcore.training.checksum`); empty in a simulation, which builds one for all."""

    @cached_property
    def metrics(self) -> Mapping[str, DeclaredMetrics]:
        """By word, what may leave as metrics: found before the first visit, so that no visit can add a name."""
        return allowed_metrics(self.words, self.local)


@dataclass
class SiteRuntime:
    """One site. `handle` is its only door; `answer` is the same without bytes, for sites of one process.

    A site that fails answers with a `Refusal` and keeps the memory it had.
    """

    name: str
    facts: Callable[[], Facts]
    """Counts and shapes of its images; may look at them."""
    settle: Callable[[Agreement | None], Workplace]
    """What it works with under an agreement. Raises Refused where it cannot take part."""
    policy: Policy = Policy()
    memory: Memory = field(default_factory=MemoryInRam)
    folder: Path | None = None
    """Of its own: audit log, errors, what it keeps for its page."""
    recipe: str = ""
    """Digest of the recipe that it runs."""
    receive: Callable[[Agreement | None, Weights], None] | None = None
    """Takes the weights that a run starts from, which come with the agreement; None: none are taken."""

    def handle(self, request: bytes) -> bytes:
        """The answer to a request; whatever was received, bytes that `fedcore.messages.wire.answer_of` reads."""
        try:
            asked = request_of(request, kinds_of_messages())
        except WireError as e:
            return answer_bytes(self._refused(f"the request cannot be read: {e}", BEFORE, self._log(""), None))
        return answer_bytes(self.answer(asked))

    def answer(self, request: Request) -> Answer:
        turn, log = request.turn, self._log(request.run)
        begun = time.perf_counter()
        try:
            if request.site != self.name:
                raise Refused("the request is for another site")
            if self.recipe and request.recipe and request.recipe != self.recipe:
                raise Refused(f"the server runs another recipe; the digest of this site's is {self.recipe[:12]}...")
            log = dataclasses.replace(log, request=request.word if request.word in WORDS else "")
            if request.word == FACTS:
                return log.release(Contribution(self.name, self.facts(), 0), turn)
            if request.word == BUILD and isinstance(request.message, Weights) and self.receive is not None:
                self.receive(request.agreement, request.message)
            place = self.settle(request.agreement)
            log = dataclasses.replace(log, levels=place.local.levels if place.local else NO_LEVELS)
            if request.word == BUILD:
                return log.release(Contribution(self.name, Built(place.checksum), 0), turn)
            visitor = place.words.get(request.word)
            if visitor is None:
                raise Refused("the recipe has no request of this name")
            log = dataclasses.replace(
                log, metrics=place.metrics[request.word], request=request.word,
                policy=_answer_policy(visitor, self.policy),
            )  # fmt: skip
            site = self._site(place, request, log)
            with place.local.at(site) if place.local else nullcontext():
                contribution = visitor.visit(site, request.message, cast(LocalTrainer, place.local), turn)
            trains = request.word == TRAIN
            contribution = dataclasses.replace(
                contribution, seconds=time.perf_counter() - begun, keeps=trains and bool(site.memory)
            )
            released = log.release(contribution, turn)
            if trains:
                self.memory.put(site.memory, turn.index, request.counted)
        except SystemExit as e:
            # Lightning answers Ctrl-C within a fit by leaving the process; it is stopped as anywhere else.
            raise KeyboardInterrupt from e
        except Refused as e:
            if e.details:
                with suppress(OSError, InputError):
                    log.note_error(e, traceback.format_exc(), turn)
            return self._refused(str(e), turn, log, None)
        except Exception as e:
            # Whatever went wrong may quote pixels, paths or patients: the text stays at the site.
            with suppress(OSError, InputError):  # then the refusal cannot be audited either, and says so
                log.note_error(e, traceback.format_exc(), turn)
            what = f"{type(e).__name__} during {request.word if request.word in WORDS else 'a query'}"
            return self._refused(f"{what}; see errors.jsonl of the site", turn, log, e)
        return released

    def refuse(self, reason: str, request: Request) -> Refusal:
        """Declines a request, and audits that."""
        return self._refused(reason, request.turn, self._log(request.run), None)

    def site(self, request: Request) -> Site:
        """The site as a visitor of this request sees it."""
        return self._site(self.settle(request.agreement), request, self._log(request.run))

    def _site(self, place: Workplace, request: Request, log: AuditLog) -> Site:
        memory = self.memory.get(request.counted)
        return Site(self.name, place.train, place.test, memory, self.folder, self.policy, log)

    def _log(self, run: str) -> AuditLog:
        return AuditLog(self.policy, self.folder, recipe=self.recipe, run=run)

    def _refused(self, reason: str, turn: Round, log: AuditLog, cause: Exception | None) -> Refusal:
        try:
            log.note_refusal(reason, turn)
        except (OSError, InputError) as e:
            return Refusal(self.name, CANNOT_WRITE, e)
        return Refusal(self.name, reason, cause)


def _answer_policy(visitor: Visitor, policy: Policy) -> Policy:
    return cast(SetsPolicy, visitor).answer_policy(policy) if implements(visitor, "answer_policy") else policy


@dataclass(frozen=True)
class Ready:
    """`SiteRuntime.settle` of a site whose images were decoded together with all others: a simulation."""

    place: Workplace

    def __call__(self, agreement: Agreement | None) -> Workplace:
        return self.place


@dataclass(frozen=True)
class KnownFacts:
    """`SiteRuntime.facts` of a simulation."""

    facts: Facts

    def __call__(self) -> Facts:
        return self.facts
