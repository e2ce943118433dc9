from __future__ import annotations

from typing import Any

import pytest

from fedcore.errors import InputError, Refused
from fedcore.messages.metric_names import DeclaredMetrics, metric_names_of


class Declares:
    def __init__(self, names: Any):
        self.metric_names = names


class PerClass:
    """Names that follow from settings."""

    def __init__(self, classes: int):
        self.classes = classes

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(f"recall_{at}" for at in range(self.classes))


def test_names_are_declared_by_an_attribute_or_computed_from_settings() -> None:
    assert metric_names_of(Declares(("loss", "my_loss"))) == {"loss", "my_loss"}
    assert metric_names_of(PerClass(3)) == {"recall_0", "recall_1", "recall_2"}
    assert metric_names_of(object()) == metric_names_of(None) == frozenset()


@pytest.mark.parametrize("names", ["loss", ["loss"], None, (3,), ("Loss",), ("",), ("a b",), ("a" * 65,), ("loss\n",)])
def test_a_declaration_is_a_tuple_of_names(names: Any) -> None:
    with pytest.raises(InputError, match=r"Declares\.metric_names must be a tuple of names"):
        metric_names_of(Declares(names))


def test_undeclared_names_are_counted_and_not_quoted() -> None:
    declared = DeclaredMetrics(frozenset({"loss", "knn"}), "MyMethod")
    declared.require(())
    declared.require({"loss": 1.0, "knn": 1.0})
    with pytest.raises(Refused) as refused:
        declared.require({"pixel_17": 0.5, "loss": 1.0, "age_61": 1.0})
    text = str(refused.value)
    assert text.startswith("MyMethod reported 2 metrics that no class of the recipe declares; add each name to metric_")
    assert not any(word in text for word in ("pixel", "17", "age", "61"))
    assert refused.value.details == "not declared: age_61, pixel_17"


def test_nothing_is_declared_unless_a_class_says_so() -> None:
    with pytest.raises(Refused, match="reported 1 metric that no class"):
        DeclaredMetrics().require({"loss": 1.0})
