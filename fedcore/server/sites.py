"""The sites as the server knows them: by their answers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from fedcore.algorithms.answers import kind_error
from fedcore.errors import InputError, InputErrors
from fedcore.messages.agreement import Agreement, Built, Facts
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.request import BUILD, FACTS, Counted, Request
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.runs.communication import note
from fedcore.server.agreement import agree, changed, misfit, require_same_versions
from fedcore.server.validation import Sent, facts_error
from fedcore.transport.base import Transport

Up = TypeVar("Up", bound=Message)
Tasks = Iterable[tuple[str, Message]]
"""(site, what it is sent), taken one by one."""


@dataclass
class Sites:
    """Which sites take part, what all agreed on, and which visit of each counted last."""

    transport: Transport
    facts: dict[str, Facts]
    agreement: Agreement
    run: str = ""
    """Name of the run, for the sites' audit logs."""
    recipe: str = ""
    """Digest of the recipe."""
    counted: dict[str, Counted] = field(default_factory=dict)
    on_request: Callable[[str], None] | None = None
    """Called with a site's name when a round or an evaluation turns to it (progress bars)."""
    absent: frozenset[str] = frozenset()
    """Sites of a run that continues, which did not answer at its new start."""
    record: Path | None = None
    """Where `query` books what is sent and answered outside of rounds (answers.jsonl)."""

    @classmethod
    def of(
        cls, transport: Transport, run: str = "", recipe: str = "", classes: Sequence[str] = (),
        record: Path | None = None,
    ) -> Sites:  # fmt: skip
        """Asks every site for its facts, and agrees.

        Raises:
            InputErrors: A site gave none, or sites do not fit one another.
        """
        facts, wrong = _facts(transport, run, recipe)
        if not transport.names():
            raise InputError("there are no sites; at least one must take part")
        if wrong:
            raise InputErrors("sites that cannot take part", [f"{site}: {reason}" for site, reason in wrong.items()])
        return cls(transport, facts, agree(facts, classes), run, recipe, record=record)

    @classmethod
    def again(
        cls, transport: Transport, earlier: Mapping[str, Facts], agreement: Agreement, run: str = "", recipe: str = ""
    ) -> Sites:
        """The sites of a run that continues, under the agreement that it began with.

        Sites that do not answer now may answer in a later round, so what they said `earlier` stands. Sites may be new.

        Raises:
            InputErrors: A site's images have changed, a new site does not fit the agreement, or one gave no facts.
        """
        facts, absent = _facts(transport, run, recipe)
        wrong = [f"{site}: {reason}" for site, reason in absent.items() if site not in earlier]
        for site, found in facts.items():
            if error := changed(found, earlier[site]) if site in earlier else misfit(found, agreement):
                wrong.append(f"{site}: {error}")
        if wrong:
            raise InputErrors("sites that cannot continue the run", wrong)
        require_same_versions(facts)
        return cls(transport, {**earlier, **facts}, agreement, run, recipe, absent=frozenset(absent))

    def names(self) -> list[str]:
        return list(self.facts)

    @property
    def training(self) -> list[str]:
        """Sites that have training images."""
        return [name for name, facts in self.facts.items() if facts.train]

    @property
    def testing(self) -> list[str]:
        """Sites that have test images."""
        return [name for name, facts in self.facts.items() if facts.test]

    def ask(self, word: str, tasks: Tasks, turn: Round, deadline: float | None = None) -> Iterator[Answer]:
        """Answers as they came; who uses one checks it first (`fedcore.server.validation`)."""
        yield from self.transport.ask((self._request(word, *task, turn) for task in tasks), deadline)

    def query(
        self, word: str, down: Message, names: Sequence[str], turn: Round, kind: type[Up]
    ) -> list[Contribution[Up] | Refusal]:
        """Asks outside of rounds for a message of this kind, and books it. An answer that cannot be used is a
        Refusal."""
        sent, given = Sent(down, None, word), list[Any]()
        for answer in _one_each(self.ask(word, ((name, down) for name in names), turn), names):
            if self.record is not None:
                note(self.record, word, answer.site, down, answer)
            if isinstance(answer, Contribution):
                error = kind_error(answer.message, kind) or sent.error_of(answer, self.facts.get(answer.site))
                answer = Refusal(answer.site, f"its answer was rejected: {error}") if error else answer
            given.append(answer)
        return given

    def query_all(
        self, word: str, down: Message, names: Sequence[str], turn: Round, kind: type[Up], what: str
    ) -> list[Contribution[Up]]:
        """As `query`, where every site must answer. Raises InputError: a site could not be `what` (probed, say)."""
        found = []
        for answer in self.query(word, down, names, turn, kind):
            if isinstance(answer, Refusal):
                raise InputError(f"{answer.site} could not be {what}: {answer.reason}") from answer.cause
            found.append(answer)
        return found

    def require_same_module(self, checksum: str, versions: Sequence[str], start: Tensors | None = None) -> None:
        """Every site builds its module.

        Args:
            checksum: Of the server's module.
            versions: Of the server's packages.
            start: The state of the server's module, where the recipe alone does not give it: it is pretrained.

        Raises:
            InputErrors: A site has built another module than the server.
        """
        differing, down = [], Empty() if start is None else Weights(start)
        if start is not None:
            self.agreement = replace(self.agreement, start=checksum)
        present = [name for name in self.names() if name not in self.absent]
        for answer in self.query(BUILD, down, present, Round(0, 1, 0), Built):
            if isinstance(answer, Refusal):
                differing.append(f"{answer.site}: {answer.reason}")
            elif answer.message.checksum != checksum:
                differing.append(f"{answer.site} has {', '.join(self.facts[answer.site].versions)}")
        if differing:
            raise InputErrors(
                "sites build a different model from this recipe",
                differing,
                f"The server has {', '.join(versions)}; install the same versions.",
            )

    def count(self, answer: Contribution[Message], turn: Round) -> None:
        """The answer's visit is the last of its site that counts."""
        self.counted[answer.site] = Counted(turn.index, answer.keeps)

    def _request(self, word: str, name: str, down: Message, turn: Round) -> Request:
        if self.on_request is not None:
            self.on_request(name)
        return Request(name, word, down, turn, self.counted.get(name), self.agreement, self.run, self.recipe)


def _facts(transport: Transport, run: str, recipe: str) -> tuple[dict[str, Facts], dict[str, str]]:
    """What sites say of their images, and why others say nothing that can be used."""
    facts, wrong = dict[str, Facts](), dict[str, str]()
    requests = (Request(name, FACTS, Empty(), Round(0, 1, 0), run=run, recipe=recipe) for name in transport.names())
    for answer in _one_each(transport.ask(requests), transport.names()):
        if isinstance(answer, Refusal):
            wrong[answer.site] = answer.reason
        elif not isinstance(answer.message, Facts):
            wrong[answer.site] = "it sent no facts"
        elif error := facts_error(answer.message):
            wrong[answer.site] = error
        else:
            facts[answer.site] = answer.message
    return facts, wrong


def _one_each(answers: Iterable[Answer], names: Sequence[str]) -> Iterator[Answer]:
    """The first answer of each of these sites; one that gave none has declined."""
    silent = dict.fromkeys(names)
    for answer in answers:
        if answer.site in silent:
            del silent[answer.site]
            yield answer
    yield from (Refusal(name, "it gave no answer") for name in silent)
