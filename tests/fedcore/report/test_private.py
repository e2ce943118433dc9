"""Absolute paths must not survive; everything else must."""

from __future__ import annotations

import pytest
import yaml

from fedcore.report.private import shorten_paths, shorten_recipe


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/clinic/Jane Doe/manifest.csv", "manifest.csv"),
        ("/clinic/scans/", "scans"),
        ("C:\\scans\\Doe, Jane\\a.png", "a.png"),
        ("cannot read '/data/Jane Doe/a.csv'; see docs/data.md", "cannot read 'a.csv'; see docs/data.md"),
        ("--data=/home/x/y.csv", "--data=y.csv"),
        ("~/scans/x.npz is empty", "x.npz is empty"),
        ("file:///home/x/y.csv", "y.csv"),
        ("\\\\server\\share\\x.dcm missing", "x.dcm missing"),
        ("see /clinic/müller/bild.png, /b/c.png", "see bild.png, c.png"),
    ],
)
def test_an_absolute_path_keeps_its_last_part(text: str, short: str) -> None:
    assert shorten_paths(text) == short


@pytest.mark.parametrize(
    "text",
    [
        "checkpoints/x/encoder",
        "../data/manifest.csv",
        "1/2",
        "and/or",
        "N/A",
        "loss / round",
        "exchange/features",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert shorten_paths(text) == text


def test_any_depth_is_reached() -> None:
    found = {"/a/b": ["/c/d", {"e": "/f/g"}], "n": 3}
    assert shorten_paths(found) == {"b": ["d", {"e": "g"}], "n": 3}


def test_a_recipe_keeps_its_order_and_values_but_not_its_comments() -> None:
    recipe = "# from /clinic/Jane Doe\nz: /clinic/Jane Doe/manifest.csv\na: [1, 0.5, null]\n"
    short = shorten_recipe(recipe)
    assert yaml.safe_load(short) == {"z": "manifest.csv", "a": [1, 0.5, None]}
    assert short.startswith("z:")
    assert "Doe" not in short


def test_a_recipe_that_is_no_yaml_is_shortened_as_text() -> None:
    assert shorten_recipe("a: [/clinic/x/y.csv") == "a: [y.csv"
