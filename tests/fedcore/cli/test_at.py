from __future__ import annotations

import pytest

from fedcore.cli.at import split_at
from fedcore.errors import InputError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pretrain", "moco", "--at", "brain", "--seed", "3"], (["pretrain", "moco", "--seed", "3"], "brain", None)),
        (["probe", "run", "--at=brain", "--sites=b,a"], (["probe", "run"], "brain", ["b", "a"])),
        (["--sites", "a", "--at", "x"], ([], "x", ["a"])),
        (["data", "phantom", "out", "--sites", "2"], (["data", "phantom", "out", "--sites", "2"], None, None)),
        ([], ([], None, None)),
    ],
)
def test_the_deployment_and_its_sites_are_taken_out(words: list[str], expected: tuple[object, ...]) -> None:
    assert split_at(words) == expected


@pytest.mark.parametrize("words", [["pretrain", "--at"], ["pretrain", "--at", "x", "--sites"]])
def test_an_option_without_a_value_is_an_error(words: list[str]) -> None:
    with pytest.raises(InputError, match=f"{words[-1]} needs a value"):
        split_at(words)
