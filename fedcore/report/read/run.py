"""The content of a run folder as frozen dataclasses. `reader.py` fills them; pages are made from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.report.read.levels import highest_level

KINDS = ("weights", "exchange", "metrics")
"""Kinds of bytes, as rounds.jsonl names them."""


@dataclass(frozen=True)
class VisitSummary:
    """One site in one round; `up` and `down` are bytes by kind, `reveals` is a privacy level or empty."""

    examples: int
    seconds: float | None
    metrics: Mapping[str, float]
    up: Mapping[str, int]
    down: Mapping[str, int]
    reveals: str


@dataclass(frozen=True)
class RoundSummary:
    """One round: the visits that counted, failed visits with their reasons, and the evaluation if there was one."""

    index: int
    seconds: float | None
    visits: Mapping[str, VisitSummary]
    refused: Mapping[str, str]
    evaluation: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SentTotal:
    """All that was sent under one name: `count` times, `size` bytes in total, at most of level `reveals`."""

    count: int = 0
    size: int = 0
    reveals: str = ""
    to: tuple[str, ...] = ()
    """Recipients."""

    def __add__(self, other: SentTotal) -> SentTotal:
        level, to = highest_level([self.reveals, other.reveals]), (*self.to, *other.to)
        return SentTotal(self.count + other.count, self.size + other.size, level, tuple(dict.fromkeys(to)))


@dataclass(frozen=True)
class Estimate:
    """A score with the ends of its confidence interval where they are known."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of about equal confidence: their number, their mean confidence, the fraction that was right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ModelScores:
    """The scores of one model on one test set of `images` images."""

    metrics: Mapping[str, Estimate]
    images: int | None
    calibration: tuple[ReliabilityBin, ...] = ()
    findings: Mapping[str, Estimate] = field(default_factory=dict)
    """AUROC of each finding, where an image may have several."""
    note: str = ""
    """What the site did not count, and why."""


@dataclass(frozen=True)
class RunScores:
    """`scores.json`: what a fine-tuned run reached at each site and pooled over the sites."""

    label_fraction: float | None
    pretrained: str | None
    """The encoder that it started from; None: random initialisation."""
    sites: Mapping[str, ModelScores]
    pooled: ModelScores | None
    per_patient: bool = False
    """Patients were counted, not images."""
    grid: str = ""
    """Grid on which masks were measured: `files`, or the model's, such as `32 x 32`."""
    distance_unit: str = ""


@dataclass(frozen=True)
class AuditVerdict:
    """One verdict of an audit: `answer` is yes, no or not measured."""

    answer: str
    reasons: tuple[str, ...]
    not_measured: tuple[str, ...]

    @property
    def tone(self) -> str:
        return {"yes": "good", "no": "bad"}.get(self.answer, "open")


@dataclass(frozen=True)
class SetAudit:
    """Results of the audit of a synthetic set; `copies` is image -> sites that found it to be a copy."""

    name: str
    set: str
    """Digest."""
    images: int
    left_out: int
    safe: AuditVerdict
    """No copies, no membership inference."""
    useful: AuditVerdict
    """Fit to train on."""
    copies: Mapping[str, tuple[str, ...]]
    sites: Mapping[str, Mapping[str, float]]
    quality: Mapping[str, Mapping[str, float]]
    """Group of images -> figures."""
    encoder: str
    """SHA-256 of its weights; empty where images were compared by pixels only."""


@dataclass(frozen=True)
class Run:
    """A run folder. `gaps` lists in sentences what its files lack."""

    name: str
    folder: Path
    command: str
    status: str
    planned_rounds: int | None
    seconds: float | None
    sites: Mapping[str, Mapping[str, int]]
    """Site -> split -> images."""
    classes: tuple[str, ...]
    size: tuple[int, ...]
    channels: int | None
    parameters: int | None
    data: str
    """Fingerprint of the images; empty where it is not known."""
    error: str
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    gaps: tuple[str, ...]
    recipe: str
    environment: Mapping[str, str]
    rounds: tuple[RoundSummary, ...]
    answers: tuple[Mapping[str, VisitSummary], ...]
    """Site -> what it sent outside of rounds (evaluation, audit)."""
    buffers: Mapping[str, str]
    """Tensors that are sent with the weights and reveal more than weights, with their levels."""
    audit_logs: Mapping[str, Mapping[str, SentTotal]]
    """Site -> field -> what its own audit log lists under it."""
    scores: RunScores | None
    set_audit: SetAudit | None
    downloads: bool = True
    """Whether it is on record what sites received; a site's audit log lists what it sent alone."""

    @property
    def visits(self) -> list[VisitSummary]:
        """Of all rounds and sites."""
        return [visit for one in self.rounds for visit in one.visits.values()]
