"""Properties of an algorithm that server and job need, found in it or in an algorithm that it wraps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from fedcore.algorithms.answers import returned_by
from fedcore.algorithms.base import ChoosesSites
from fedcore.algorithms.wrapper import Wrapper, layers
from fedcore.messages.message import Message
from fedcore.messages.metric_names import DeclaredMetrics, metric_names_of
from fedcore.training.local_trainer import implements


def share_of(algorithm: Any, module: Any) -> tuple[str, ...]:
    """Prefixes of the module's state that travel: the module's own `share`, unless the algorithm has a `share(module)`
    that narrows it."""
    for layer in layers(algorithm):
        if implements(layer, "share"):
            narrowed: tuple[str, ...] = layer.share(module)
            return narrowed
    return tuple(module.share)


def message_types(part: Any) -> Iterator[type[Message]]:
    """The types of message that sites send for an algorithm, an exchange or an evaluation, as far as annotated.

    These are the return types of `visit` (the message of its contribution) and of `collect`, of the part itself, of the
    algorithms that it wraps and of their exchanges. What is not annotated, or as Any, is checked in each visit only.
    """
    for layer in layers(part):
        for source in (layer, getattr(layer, "exchange", None)):
            for method in ("visit", "collect"):
                if kind := returned_by(getattr(source, method, None)):
                    yield kind


def chooser_of(algorithm: Any, state: Any) -> tuple[ChoosesSites, Any] | None:
    """The layer that chooses the sites of a round, with its part of the server's `state`; None: there is none."""
    for layer in layers(algorithm):
        if implements(layer, "choose"):
            return layer, state
        state = layer.inner_state(state) if isinstance(layer, Wrapper) else state
    return None


def metric_weight_of(algorithm: Any) -> str | None:
    """The metric by which an algorithm's aggregator weights the sites; None if it uses no metric."""
    aggregators = (layer.aggregator for layer in layers(algorithm) if hasattr(layer, "aggregator"))
    weight = getattr(next(aggregators, None), "weight", None)
    return weight if isinstance(weight, str) and weight not in ("examples", "equal") else None


def declared_metrics(part: Any, training: frozenset[str] = frozenset()) -> DeclaredMetrics:
    """What sites may send as metrics for an algorithm or an evaluation.

    Each algorithm and those that it wraps declare names in `metric_names`. One that trains a second time has a
    `metric_prefix`, with which the metrics of that training begin.

    Args:
        part: The algorithm or evaluation.
        training: Names that a training may report (`LocalTrainer.metric_names`); none where nothing is trained.
    """
    names, classes = set(training), list[str]()
    for layer in layers(part):
        prefix = getattr(layer, "metric_prefix", "")
        names |= metric_names_of(layer) | {prefix + name for name in training}
        classes.append(type(layer).__name__)
    return DeclaredMetrics(frozenset(names), " or ".join(classes))


def round_count_user(part: Any) -> str | None:
    """The name of a class, in the settings `part` or anything inside, that depends on the number of rounds of a run."""
    if getattr(part, "uses_count", False):
        return type(part).__name__
    inside = part if isinstance(part, tuple | list) else vars(part).values() if is_dataclass(part) else ()
    return next((found for each in inside if (found := round_count_user(each))), None)
