"""What a recipe would send, compared with a site's policy before anything trains."""

from __future__ import annotations

from collections.abc import Mapping

from fedcore.algorithms.base import Visitor
from fedcore.algorithms.properties import message_types, metric_weight_of
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.messages.reveals import Levels
from fedcore.privacy.policy import Policy


def require_allowed(policy: Policy, words: Mapping[str, Visitor], levels: Levels) -> None:
    """Raises InputError where training or the evaluation between rounds would send more than the policy allows."""
    if weight := metric_weight_of(words.get(TRAIN)):
        policy.require_metrics(f"an average weighted by the metric {weight}")
    for word in (TRAIN, EVALUATE):
        for kind in message_types(words[word]) if word in words else ():
            policy.foresee(kind)
    policy.foresee_tensors(levels)
