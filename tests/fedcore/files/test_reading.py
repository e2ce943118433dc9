from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedcore.errors import InputError
from fedcore.files import reading
from fedcore.files.reading import DEEPEST, TooMuch, json_of, read_json, read_yaml, yaml_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_safe_yaml_says_is_said(value: object) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert yaml_of(text) == yaml.safe_load(text) == value


def test_aliases_that_stand_for_little_are_read() -> None:
    assert yaml_of("a: &x [1, 2]\nb: *x\nc: {d: *x, <<: {e: *x}}") == {
        "a": [1, 2], "b": [1, 2], "c": {"d": [1, 2], "e": [1, 2]},
    }  # fmt: skip


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)])


def test_an_alias_counts_as_all_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three levels are 1 + 3 keys, lists of 11, 111 and 1111 values."""
    text, values = bomb(3), 1 + 3 + 11 + 111 + 1111
    monkeypatch.setattr(reading, "MOST_VALUES", values)
    assert len(yaml_of(text)["a2"]) == 10
    monkeypatch.setattr(reading, "MOST_VALUES", values - 1)
    with pytest.raises(TooMuch, match="aliases written out"):
        yaml_of(text)


@pytest.mark.parametrize("text", [bomb(30), "a: &a [*a]", "&a {b: *a}", "a: &a {<<: *a}"])
def test_aliases_without_end(text: str) -> None:
    with pytest.raises(TooMuch, match="aliases written out"):
        yaml_of(text)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 100_000])
def test_what_is_too_deep(depth: int) -> None:
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        for parse in (json_of, yaml_of):
            with pytest.raises(ValueError, match=r"deeper|levels|nesting"):
                parse(text)
    whole = "[" * DEEPEST + "]" * DEEPEST
    assert json_of(whole) == yaml_of(whole)


@pytest.mark.parametrize(
    "text", ["a: [", "a: !!python/object/apply:os.system ['x']", "a: 2020-99-99", "{[1]: 2}: 3", "a: 1\n---\nb: 2",
             "a: *b", "\x00", "9" * 5000, '"\\ud800"', "<<: 3"],
)  # fmt: skip
def test_what_is_no_plain_yaml(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        yaml_of(text)


@pytest.mark.parametrize("text", ["", "{", '{"a": "\\ud800"}', "9" * 5000, "[1] 2"])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_of(text)


def test_a_file_says_what_is_wrong_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    with pytest.raises(InputError, match=r"x is missing or cannot be read .*; ask for it anew"):
        read_json(path, "ask for it anew")
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match=r"it is no UTF-8 text \(byte 7\)"):
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
    with pytest.raises(InputError, match="it is no file"):
        read_yaml(tmp_path)
