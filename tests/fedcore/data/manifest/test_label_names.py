from __future__ import annotations

import pytest

from fedcore.data.manifest.label_names import label_error, name_key, require_distinct, similar_names
from fedcore.errors import InputErrors


@pytest.mark.parametrize(
    ("one", "other"),
    [("Normal", "normal"), ("lung cancer", "Lung_Cancer"), ("non-small", "nonsmall"), ("01", "1"), ("1.50", "1.5"),
     ("none", "No Finding"), ("no findings", "No Finding"), ("Straße", "STRASSE"), ("\uff11", "1"), ("a  b", "a b")],
)  # fmt: skip
def test_spellings_of_one_name_have_one_key(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1 2", "12"), ("1-2", "12"), ("-1", "1"), ("grade 1", "grade 2"), ("9007199254740993", "9007199254740992")],
)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


def test_groups_have_all_spellings() -> None:
    assert similar_names({"a": [1], "A": [2], "b": [3], " a": [4]}) == [{" a": [4], "A": [2], "a": [1]}]


def test_ambiguous_labels_are_an_error() -> None:
    assert "or write 'No Finding'" in label_error("None")
    assert "'NaN', a word for no label" in label_error("Mass|NaN")
    assert not any(map(label_error, ["none", "No Finding", "", "Mass|Effusion", "0"]))


def test_similar_classes_of_several_manifests_are_an_error() -> None:
    require_distinct(("a", "b", "a|b"))
    with pytest.raises(InputErrors, match="classes 'Mass' and 'mass' seem to be one"):
        require_distinct(("Effusion|Mass", "mass"))
