"""What a recipe would send, compared with a site's policy before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedcore.algorithms.base import Visitor, sent_by
from fedcore.messages.message import Levels
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.privacy.policy import Policy


def require_allowed(policy: Policy, words: Mapping[str, Visitor], levels: Levels) -> None:
    """Raises InputError where training or the evaluation between rounds would send more than the policy allows."""
    if weight := metric_of(words.get(TRAIN)):
        policy.require_metrics(f"an average weighted by the metric {weight}")
    for word in (TRAIN, EVALUATE):
        for kind in sent_by(words[word]) if word in words else ():
            policy.foresee(kind)
    policy.foresee_tensors(levels)


def metric_of(algorithm: Any) -> str | None:
    """The metric by which an algorithm's average weights sites, if it is one."""
    while not hasattr(algorithm, "aggregator") and hasattr(algorithm, "algorithm"):
        algorithm = algorithm.algorithm
    weight = getattr(getattr(algorithm, "aggregator", None), "weight", None)
    return weight if isinstance(weight, str) and weight not in ("examples", "equal") else None
