"""What a recipe would send, compared with a site's policy before anything trains."""

from __future__ import annotations

from collections.abc import Mapping

from fedcore.algorithms.base import Visitor
from fedcore.algorithms.properties import declared_metrics, message_types, metric_weight_of
from fedcore.errors import InputError
from fedcore.messages.metric_names import MOST_METRICS, DeclaredMetrics
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.privacy.policy import Policy
from fedcore.training.local_trainer import LocalTrainer


def require_allowed(policy: Policy, words: Mapping[str, Visitor], local: LocalTrainer) -> None:
    """Raises InputError where training or the evaluation between rounds would send more than the policy allows, or
    metrics that could not leave."""
    metrics = allowed_metrics(words, local)
    if weight := metric_weight_of(words.get(TRAIN)):
        policy.require_metrics(f"an average weighted by the metric {weight}")
        if weight not in metrics[TRAIN].names:
            raise InputError(
                f"an average is weighted by the metric {weight}, which no class of the recipe declares (declared: "
                f"{', '.join(sorted(metrics[TRAIN].names))}); add the callback that reports it to visit.callbacks"
            )
    for word in (TRAIN, EVALUATE):
        for kind in message_types(words[word]) if word in words else ():
            policy.foresee(kind)
    policy.foresee_tensors(local.levels)


def allowed_metrics(words: Mapping[str, Visitor], local: LocalTrainer | None) -> dict[str, DeclaredMetrics]:
    """By word, the metrics that may leave: as the recipe's classes declare them.

    Raises:
        InputError: A declaration is no tuple of names, or there are more names than may leave.
    """
    training = local.metric_names if local else frozenset[str]()
    found = {word: declared_metrics(words[word], training if word == TRAIN else frozenset()) for word in words}
    for declared in found.values():
        if len(declared.names) > MOST_METRICS:
            raise InputError(
                f"{declared.source} and what it trains declare {len(declared.names)} metrics, and at most "
                f"{MOST_METRICS} leave a site; declare fewer in metric_names"
            )
    return found
