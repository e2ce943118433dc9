"""All that a hospital offers to a server: bytes in, bytes out, for all of its runs.

What a request needs is read from the site's folder each time: its settings, and whether its recipe is approved. So an
approval that is withdrawn, or a policy that is changed, takes effect at the next request.
"""

from __future__ import annotations

import hashlib
import traceback
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.config.shared_recipe import SHOWN, SharedRecipe, is_digest
from fedcore.config.stages import task_maker
from fedcore.errors import InputError, Refused
from fedcore.files.lock import locked
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.encoding import WireError, kinds_of_messages
from fedcore.messages.proposal import PROPOSE, Proposal, ProposalAnswer
from fedcore.messages.request import Request
from fedcore.messages.wire import answer_bytes, request_of, request_without_message
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.runs.environment import versions
from fedcore.site.approval import approved, propose
from fedcore.site.home import SiteHome, private_folder
from fedcore.site.memory import FOLDER, MemoryOnDisk
from fedcore.site.own_data import OwnData
from fedcore.site.run.beginning import Beginning
from fedcore.site.run.start_weights import StartWeights
from fedcore.site.runtime import BEFORE, CANNOT_WRITE, SiteRuntime
from fedcore.site.settings import SETTINGS, SiteSettings

Key = tuple[str, str, bytes]
"""Run, digest of the recipe, and digest of the files that decide how the site runs it."""


@dataclass
class SiteHost:
    """One hospital. `handle` is its only door. The images and the model of one run are in memory, those of the last
    request."""

    home: SiteHome
    _read: tuple[bytes, SiteSettings] | None = field(default=None, repr=False)
    """The settings as they were read last, with the digest of their file."""
    _latest: tuple[Key, SiteRuntime] | None = field(default=None, repr=False)

    def handle(self, request: bytes) -> bytes:
        """The answer to a request; whatever was received, bytes that `fedcore.messages.wire.answer_of` reads."""
        asked: Request | None = None
        log = AuditLog(Policy(), self.home.path)
        try:
            asked = request_without_message(request)
            log = self._log(asked)
            settings = self._settings()
            if asked.site != settings.name:
                raise Refused("the request is for another site")
            if asked.word == PROPOSE:
                return answer_bytes(self._proposed(request, settings, log))
            return self._run(request, asked, settings)
        except WireError as e:
            return self._refused(f"the request cannot be read: {e}", asked, log)
        except Refused as e:
            if e.details:
                self._note(e, asked, log)
            return self._refused(str(e), asked, log)
        except Exception as e:  # settings, a disk, a recipe's own code: the text may quote what belongs to the site
            self._note(e, asked, log)
            return self._refused(f"{type(e).__name__} before the request; see errors.jsonl of the site", asked, log)

    def _run(self, request: bytes, asked: Request, settings: SiteSettings) -> bytes:
        """By the approved recipe of the request. Raises Refused where there is none."""
        folder = self.home.run(asked.run)
        recipe = approved(self.home, asked.recipe)
        if recipe is None:
            self._latest = None
            if not is_digest(asked.recipe):
                raise Refused("the request names no recipe by its digest")
            short = asked.recipe[:SHOWN]
            raise Refused(
                f"recipe {short} is not approved at this site; at the site run: fedpretrain site approve {short}"
            )
        private_folder(folder)
        with ExitStack() as held:
            try:
                held.enter_context(locked(folder))
            except InputError as e:
                busy = "another process of this site works on this run, or its folder cannot be written"
                raise Refused(busy, details=str(e)) from e
            return self._runtime(recipe, asked.run, folder, settings).handle(request)

    def _runtime(self, recipe: SharedRecipe, run: str, folder: Path, settings: SiteSettings) -> SiteRuntime:
        """That of the last request, if it is of the same run and nothing has changed."""
        manifest = self.home.path / (settings.manifest or "")
        key = run, recipe.digest, _digest(self.home.path / SETTINGS, manifest)
        if self._latest is None or self._latest[0] != key:
            self._latest = None  # its images and its model are freed first
            beginning = Beginning(folder)
            beginning.require_recipe(recipe.digest)
            try:
                built = recipe.build(settings.recipe_values(self.home.path), settings.trust)
                task = task_maker(recipe.command)(built)
            except InputError as e:
                error = "the recipe cannot be prepared with this site's settings; see errors.jsonl of the site"
                raise Refused(error, details=str(e)) from e
            data = OwnData(settings.name, task, built["data"], settings.policy, beginning, StartWeights(folder))
            memory = MemoryOnDisk(folder / FOLDER, durable=True)
            runtime = SiteRuntime(
                settings.name, data.facts, data.settle, settings.policy, memory, folder, recipe.digest, data.receive
            )
            self._latest = key, runtime
        return self._latest[1]

    def _proposed(self, request: bytes, settings: SiteSettings, log: AuditLog) -> Answer:
        asked = request_of(request, kinds_of_messages())
        if not isinstance(asked.message, Proposal):
            raise Refused("a proposal must hold a recipe")
        answer = ProposalAnswer(propose(self.home, asked.message), versions())
        return log.release(Contribution(settings.name, answer, 0), asked.turn)

    def _settings(self) -> SiteSettings:
        """Raises Refused where they must be corrected."""
        digest = _digest(self.home.path / SETTINGS)
        if self._read is None or self._read[0] != digest:
            try:
                self._read = digest, self.home.settings()
            except InputError as e:
                self._read = None
                raise Refused(
                    "its settings cannot be used; at the site run: fedpretrain site check", details=str(e)
                ) from e
        return self._read[1]

    def _log(self, asked: Request) -> AuditLog:
        """For what belongs to no run: proposals, and refusals before a run's own log is found."""
        recipe = asked.recipe if is_digest(asked.recipe) else ""
        word = asked.word if asked.word == PROPOSE else ""
        return AuditLog(Policy(), self.home.path, recipe=recipe, request=word)

    def _note(self, error: Exception, asked: Request | None, log: AuditLog) -> None:
        """Keeps the whole error at the site."""
        with suppress(OSError, InputError):  # then the refusal cannot be audited either, and says so
            log.note_error(error, traceback.format_exc(), asked.turn if asked else BEFORE)

    def _refused(self, reason: str, asked: Request | None, log: AuditLog) -> bytes:
        with suppress(Refused):
            self._settings()
        name = self._read[1].name if self._read else asked.site if asked else ""
        try:
            log.note_refusal(reason, asked.turn if asked else BEFORE)
        except (OSError, InputError):
            reason = CANNOT_WRITE
        return answer_bytes(Refusal(name, reason))


def _digest(*files: Path) -> bytes:
    """Of the contents; a file that cannot be read counts as an empty one."""
    digest = hashlib.sha256()
    for file in files:
        with suppress(OSError):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.digest()
