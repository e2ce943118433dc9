from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.report.markdown import fenced, plain, table


@given(st.text())
def test_a_text_is_shown_as_it_is(text: str) -> None:
    """What is escaped is what was there, and nothing else is markup."""
    shown = plain(text)
    assert (
        html.unescape(re.sub(r"\\([\\`*|~\]_])", r"\1", shown)) == html.unescape(" ".join(text.split())) or "&" in text
    )
    assert not re.search(r"[<>\n]", shown)
    assert not re.search(r"(?<!\\)(\\\\)*[`*|~]", re.sub(r"\\.", "", shown))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a|b\nc", r"a\|b c"),
        ("[click](http://x)", r"[click\](http://x)"),
        ("![x](y)", r"![x\](y)"),
        ("hospital_1, crop=[0.5, 1.0]", "hospital_1, crop=[0.5, 1.0]"),
        ("_a_ *b* `c` ~~d~~", r"\_a\_ \*b\* \`c\` \~\~d\~\~"),
        ("a & b &lt;", "a &amp; b &amp;lt;"),
    ],
)
def test_what_markdown_acts_on(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert table(["site"], [[text]]).splitlines() == ["| site |", "| --- |", f"| {shown} |"]


@pytest.mark.parametrize("text", ["a", "```", "x\n  ````\n<script>", "`"])
def test_no_text_ends_a_block_of_code(text: str) -> None:
    first, *inside, last = fenced(text, "yaml").splitlines()
    assert first == f"{last}yaml"
    assert "\n".join(inside) == text
    assert all(last not in line for line in inside)
