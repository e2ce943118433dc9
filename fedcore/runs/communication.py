"""Bytes and levels per site and round, as the server sees them: rounds.jsonl, and answers.jsonl for what is asked of
sites outside of rounds (an evaluation, an audit of a synthetic set, a model that is sent).

What a run says of its most sensitive data, anywhere, is the `highest` of these lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedcore.errors import InputError
from fedcore.files.reading import ADVICE, parse_json, read_utf8
from fedcore.files.writing import append
from fedcore.messages.answer import Contribution, Refusal, revealed
from fedcore.messages.message import Message, leaves
from fedcore.messages.reveals import Reveals

SCALAR_BYTES = 8
ANSWERS = "answers.jsonl"


@dataclass
class Bytes:
    """Split by what they are for: `weights` is the model, `exchange` all other tensors, `metrics` scalars."""

    weights: int = 0
    exchange: int = 0
    metrics: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.exchange + self.metrics


@dataclass
class SiteRecord:
    """One site's part in one round; `up` leaves the site, `down` arrives there."""

    examples: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    up: Bytes = field(default_factory=Bytes)
    down: Bytes = field(default_factory=Bytes)
    reveals: str = Reveals.WEIGHTS.name


@dataclass
class RoundRecord:
    """One line of `rounds.jsonl`."""

    round: int
    seconds: float = 0.0
    sites: dict[str, SiteRecord] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    evaluation: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> RoundRecord:
        """The inverse of `as_dict`."""
        sites = {
            site: SiteRecord(**{**of, "up": Bytes(**of["up"]), "down": Bytes(**of["down"])})
            for site, of in line["sites"].items()
        }
        return cls(**{**line, "sites": sites})

    def sent(self, site: str, message: Message) -> None:
        """Books a message on its way down."""
        record = self.sites.setdefault(site, SiteRecord())
        record.down = _add(record.down, count(message))

    def arrived(self, contribution: Contribution[Any]) -> None:
        record = self.sites[contribution.site]
        record.examples, record.seconds = contribution.examples, contribution.seconds
        record.metrics = contribution.metrics
        self._book(contribution)

    def evaluated(self, contribution: Contribution[Any]) -> None:
        """Books an answer to a question that trains nothing."""
        self.evaluation[contribution.site] = contribution.metrics
        self._book(contribution)

    def failed(self, refusal: Refusal) -> None:
        self.refused[refusal.site] = refusal.reason

    def rejected(self, contribution: Contribution[Any], reason: str) -> None:
        """Books an answer that came and cannot be used."""
        self.refused[contribution.site] = reason
        self._book(contribution)

    def repeat(self) -> None:
        """The round is tried again: of what it was so far the bytes stay booked, and what they reveal."""
        self.refused.clear()
        for record in self.sites.values():
            record.examples, record.seconds, record.metrics = 0, 0.0, {}

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the sites that sent it, weighted by their images."""
        sent = [(s.metrics[metric], s.examples) for s in self.sites.values() if metric in s.metrics]
        mass = sum(n for _, n in sent)
        return sum(v * n for v, n in sent) / mass if mass else None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _book(self, contribution: Contribution[Any]) -> None:
        record = self.sites[contribution.site]
        counted = count(contribution.message)
        # The number of images and the seconds go with every answer: two scalars more than the metrics.
        counted.metrics += SCALAR_BYTES * (2 + len(contribution.metrics))
        record.up = _add(record.up, counted)
        record.reveals = max(revealed(contribution), Reveals[record.reveals]).name


def count(message: Message) -> Bytes:
    """Bytes of a message on the wire, without framing."""
    total = Bytes()
    for leaf in leaves(message):
        if leaf.reveals == Reveals.WEIGHTS:
            total.weights += leaf.nbytes
        else:
            total.exchange += leaf.nbytes
    return total


def _add(a: Bytes, b: Bytes) -> Bytes:
    return Bytes(a.weights + b.weights, a.exchange + b.exchange, a.metrics + b.metrics)


def highest(lines: Iterable[Mapping[str, Any]]) -> str:
    """The highest level of anything that any site sent, of lines of rounds.jsonl and answers.jsonl."""
    seen = [Reveals[site["reveals"]] for line in lines for site in line["sites"].values()]
    return max(seen, default=Reveals.WEIGHTS).name


def note(path: Path, request: str, site: str, down: Message, answer: Contribution[Any] | Refusal) -> None:
    """Appends to `answers.jsonl` what a site was sent and what it answered outside of rounds."""
    record = RoundRecord(0)
    record.sent(site, down)
    if isinstance(answer, Refusal):
        record.failed(answer)
    else:
        record.arrived(answer)
    line = {"request": request, "sites": asdict(record)["sites"], "refused": record.refused}
    append(path, json.dumps(line) + "\n")


def answers(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `answers.jsonl`; one cut short by a killed process is left out.

    Raises:
        InputError: Another line is damaged.
    """
    path = folder / ANSWERS
    try:
        lines = read_utf8(path).splitlines(keepends=True) if path.exists() else []
        return [parse_json(line) for line in lines if line.endswith("}\n")]
    except ValueError as e:
        raise InputError(f"{path} is damaged: {e}; {ADVICE}") from e
