"""What a run folder says, as frozen dataclasses. `read.py` fills them; the page is made from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.messages.message import Reveals

KINDS = ("weights", "exchange", "metrics")
LEVELS = tuple(level.name for level in Reveals)


@dataclass(frozen=True)
class Visit:
    """One site in one round; `up` and `down` are bytes by kind, `reveals` is one of `LEVELS` or empty."""

    examples: int
    seconds: float | None
    metrics: Mapping[str, float]
    up: Mapping[str, int]
    down: Mapping[str, int]
    reveals: str


@dataclass(frozen=True)
class Turn:
    """One round: the visits that counted, the refusals with their reasons, the survey if there was one."""

    index: int
    seconds: float | None
    visits: Mapping[str, Visit]
    refused: Mapping[str, str]
    survey: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Departure:
    """What left under one name, summed: `count` times, `size` bytes."""

    count: int
    size: int
    reveals: str


@dataclass(frozen=True)
class Estimate:
    """A score with the ends of its confidence interval where they are known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bin:
    """Guesses that were about as sure: how many, how sure they were on average, and what share of them held."""

    count: int
    sure: float
    held: float


@dataclass(frozen=True)
class Score:
    """The scores of one model on one test set of so many images."""

    metrics: Mapping[str, Estimate]
    images: int | None
    calibration: tuple[Bin, ...] = ()
    findings: Mapping[str, Estimate] = field(default_factory=dict)
    """AUROC of each, where images may have several."""
    note: str = ""
    """What the site did not count, and why."""


@dataclass(frozen=True)
class Scores:
    label_fraction: float | None
    encoder: str | None
    sites: Mapping[str, Score]
    pooled: Score | None
    by_patient: bool = False
    """Patients were counted, not images."""
    grid: str = ""
    """What masks were measured on: files, or the pixels of the images' sides."""
    unit: str = ""
    """Of distances."""


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


@dataclass(frozen=True)
class Finding:
    """One verdict of an audit: `answer` is yes, no or not measured."""

    answer: str
    because: tuple[str, ...]
    not_measured: tuple[str, ...]

    @property
    def tone(self) -> str:
        return {"yes": "good", "no": "bad"}.get(self.answer, "open")


@dataclass(frozen=True)
class Inspection:
    """What an audit of a drawn set found; `copies` is image -> sites that say so, `quality` group -> figures."""

    name: str
    set: str
    """Digest."""
    images: int
    left_out: int
    safe: Finding
    """No copies, no membership inference."""
    useful: Finding
    """Fit to train on."""
    copies: Mapping[str, tuple[str, ...]]
    sites: Mapping[str, Mapping[str, float]]
    quality: Mapping[str, Mapping[str, float]]
    encoder: str
    """SHA-256 of its weights; empty where pixels alone were looked at."""


@dataclass(frozen=True)
class Run:
    """A run folder. `gaps` says in sentences what its files lack; `audits` is site -> field -> departures; `answers`
    are site -> what it sent when it was asked outside of rounds; `buffers` are tensors that travel with the weights and
    reveal more, with their levels.
    """

    name: str
    folder: Path
    command: str
    status: str
    planned_rounds: int | None
    seconds: float | None
    sites: Mapping[str, Mapping[str, int]]
    classes: tuple[str, ...]
    size: tuple[int, ...]
    channels: int | None
    parameters: int | None
    data: str
    """Fingerprint of the images; empty where it is not known."""
    error: str
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    gaps: tuple[str, ...]
    recipe: str
    environment: Mapping[str, str]
    turns: tuple[Turn, ...]
    answers: tuple[Mapping[str, Visit], ...]
    buffers: Mapping[str, str]
    audits: Mapping[str, Mapping[str, Departure]]
    scores: Scores | None
    inspection: Inspection | None


def highest(levels: list[str]) -> str:
    """The riskiest of some revelations; a name that `LEVELS` lacks outranks them, "" means none."""
    rank = {level: at for at, level in enumerate(("", *LEVELS))}
    return max(levels, key=lambda level: rank.get(level, len(rank)), default="")
