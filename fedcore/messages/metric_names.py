"""Which metrics may leave a site: those that a class of the recipe declares, by plain names.

A free name could hold anything, and a choice among many names as well. So whatever logs or reports a metric declares
its name beforehand, in an attribute `metric_names`: a module, a local callback, an algorithm, an evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedcore.errors import InputError, Refused

MOST_METRICS = 32
"""Of one answer."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def is_metric(name: str) -> bool:
    """Whether a metric may have this name."""
    return _NAME.fullmatch(name) is not None


def metric_names_of(part: Any) -> frozenset[str]:
    """What `part` declares in `metric_names`, a tuple of names; nothing without such an attribute.

    Names that follow from settings (a metric of each class, say) are a property that computes them.

    Raises:
        InputError: It is no tuple of names of metrics.
    """
    names = getattr(part, "metric_names", ())
    if not isinstance(names, tuple) or not all(isinstance(name, str) and is_metric(name) for name in names):
        raise InputError(
            f"{type(part).__name__}.metric_names must be a tuple of names of 1 to 64 lower-case letters, digits and "
            'underscores that begin with a letter, such as ("my_loss",)'
        )
    return frozenset(names)


@dataclass(frozen=True)
class DeclaredMetrics:
    """The names that metrics of an answer may have, fixed before the site's images are seen."""

    names: frozenset[str] = frozenset()
    source: str = "the answer"
    """Whose metrics they are: the name of a class of the recipe, which an error asks to be mended."""

    def require(self, metrics: Iterable[str]) -> None:
        """Raises Refused where a metric is not declared.

        Its text counts undeclared names and does not quote them: a name could hold data. `details` lists them.
        """
        if undeclared := sorted(set(metrics) - self.names):
            raise Refused(
                f"{self.source} reported {len(undeclared)} metric{'s' if len(undeclared) > 1 else ''} that no class of "
                "the recipe declares; add each name to metric_names of the class that logs or reports it, or remove it "
                "there. The site's errors.jsonl lists the names",
                details=f"not declared: {', '.join(undeclared)}",
            )
