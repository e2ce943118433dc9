from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import InputError
from fedcore.files import reading
from fedcore.files.reading import MOST_LEVELS, LimitExceeded, parse_json, parse_yaml, read_json, read_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_plain_yaml_is_parsed_as_by_safe_load(value: object) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert parse_yaml(text) == yaml.safe_load(text) == value


def test_aliases_within_the_limits_are_read() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {d: *x, <<: {e: *x}}") == {
        "a": [1, 2], "b": [1, 2], "c": {"d": [1, 2], "e": [1, 2]},
    }  # fmt: skip


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)])


def test_an_alias_counts_as_the_values_it_expands_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three levels are 1 + 3 keys, lists of 11, 111 and 1111 values."""
    text, values = bomb(3), 1 + 3 + 11 + 111 + 1111
    monkeypatch.setattr(reading, "MOST_VALUES", values)
    assert len(parse_yaml(text)["a2"]) == 10
    monkeypatch.setattr(reading, "MOST_VALUES", values - 1)
    with pytest.raises(LimitExceeded, match="aliases expanded"):
        parse_yaml(text)


@pytest.mark.parametrize("text", [bomb(30), "a: &a [*a]", "&a {b: *a}", "a: &a {<<: *a}"])
def test_recursive_aliases(text: str) -> None:
    with pytest.raises(LimitExceeded, match="aliases expanded"):
        parse_yaml(text)


@pytest.mark.parametrize("depth", [MOST_LEVELS + 1, 100_000])
def test_deep_nesting(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        for parse in (parse_json, parse_yaml):
            with pytest.raises(ValueError, match=r"deeper|levels|nesting"):
                parse(text)
    whole = "[" * MOST_LEVELS + "]" * MOST_LEVELS
    assert parse_json(whole) == parse_yaml(whole)


@pytest.mark.parametrize(
    "text", ["a: [", "a: !!python/object/apply:os.system ['x']", "a: 2020-99-99", "{[1]: 2}: 3", "a: 1\n---\nb: 2",
             "a: *b", "\x00", "9" * 5000, '"\\ud800"', "<<: 3"],
)  # fmt: skip
def test_text_that_is_not_plain_yaml(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["", "{", '{"a": "\\ud800"}', "9" * 5000, "[1] 2"])
def test_text_that_is_not_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_errors_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    with pytest.raises(InputError, match=r"x is missing or cannot be read .*; ask for it anew"):
        read_json(path, "ask for it anew")
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 7\)"):
        read_json(path)
    path.write_text("[1]")
    for read in (read_json, read_yaml):
        with pytest.raises(InputError, match="it must hold keys and values, found a list"):
            read(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == read_yaml(path) == {"a": 1}
    monkeypatch.setattr(reading, "MOST_BYTES", 7)
    with pytest.raises(InputError, match="it has more than"):
        read_json(path)
    with pytest.raises(InputError, match="it is not a file"):
        read_yaml(tmp_path)
