"""What a site agrees to send."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fedcore.errors import InputError, Refused
from fedcore.messages.message import Message, declared, leaves
from fedcore.messages.reveals import NO_LEVELS, Levels, Reveals


@dataclass(frozen=True)
class Policy:
    """What sites agree to send."""

    max_level: Reveals = Reveals.STATISTICS
    """Highest level allowed: WEIGHTS (model weights and number of images) < STATISTICS (over images, scores among
    them) < FEATURES (of single images) < SAMPLES (images or samples like them)."""
    metrics: bool = True
    """Whether sites send scalars (mean loss, probe scores) with their messages, where `max_level` allows STATISTICS."""
    min_patients: int = 10
    """Minimum number of patients of a score or a statistic; a site with fewer patients does not send it."""
    counts: Literal["exact", "rounded", "withheld"] = "exact"
    """Numbers of images that a site sends. exact: as they are; rounded: to one significant digit; withheld: 1 in place
    of every number, so that FedAvg weights these sites equally."""
    audits: int = 5
    """Maximum number of audits of synthetic sets that a site answers in a run. An answer states for each synthetic
    image whether it copies a training image. This is FEATURES, and allowed this often although `max_level` is
    STATISTICS; 0: never."""

    def __post_init__(self) -> None:
        if self.min_patients < 1:
            raise ValueError(f"policy.min_patients must be at least 1, got {self.min_patients}")
        if self.audits < 0:
            raise ValueError(f"policy.audits must be 0 or more, got {self.audits}")

    def counted(self, images: int) -> int:
        """A number of images as it may leave."""
        if self.counts == "exact" or not images:
            return images
        return 1 if self.counts == "withheld" else int(float(f"{images:.0e}"))

    def for_audit(self) -> Policy:
        """What the answer to an audit may reveal; that it is given no more than `audits` times,
        `fedgen.auditing.allowance` sees to. Sites that send weights alone answer none."""
        lifted = self.audits and self.max_level >= Reveals.STATISTICS
        return replace(self, max_level=max(self.max_level, Reveals.FEATURES)) if lifted else self

    @property
    def allows_metrics(self) -> bool:
        """Scalars are statistics: under WEIGHTS none leaves."""
        return self.metrics and self.max_level >= Reveals.STATISTICS

    def require_metrics(self, what: str) -> None:
        """Raises InputError if `what` takes scalars that no site will send."""
        if not self.allows_metrics:
            raise InputError(
                f"{what} needs metrics of the sites, which are STATISTICS; the policy allows {self.max_level.name}"
                f"{'' if self.metrics else ' and no metrics'}; set policy.max_level to STATISTICS and policy.metrics "
                "to true if the sites agree"
            )

    def foresee(self, kind: type[Message]) -> None:
        """Raises InputError if messages of `kind` reveal more than is allowed, before any site has trained for them.

        A field that may stay empty (a slice's position) counts as well: what may leave is agreed to beforehand.
        """
        self._require(kind.__name__, declared(kind))

    def foresee_tensors(self, levels: Levels) -> None:
        """Raises InputError if a tensor that travels with the weights reveals more than is allowed."""
        for name, level in levels.items():
            self._require(f"{name}, which is sent with the weights,", level)

    def check(self, message: Message, levels: Levels = NO_LEVELS) -> None:
        """Raises Refused if `message` reveals more than is allowed."""
        over = next((leaf for leaf in leaves(message, levels=levels) if leaf.reveals > self.max_level), None)
        if over is not None:
            raise Refused(
                f"{over.kind} reveals {over.reveals.name} ({over.name}), the policy allows "
                f"{self.max_level.name}; set policy.max_level to {over.reveals.name} if the site agrees"
            )

    def _require(self, what: str, level: Reveals) -> None:
        if level > self.max_level:
            raise InputError(
                f"{what} reveals {level.name}, the policy allows {self.max_level.name}; set policy.max_level to "
                f"{level.name} if the sites agree, or choose a method that reveals less"
            )
