"""What metrics may be called: names alone, since a free text could hold anything."""

from __future__ import annotations

import re

MOST_METRICS = 32
"""Of one answer."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def is_metric(name: str) -> bool:
    """Whether a metric may have this name."""
    return _NAME.fullmatch(name) is not None
