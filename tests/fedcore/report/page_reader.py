"""Reads a page as a browser would."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

_VOID = {"meta", "img", "br", "hr", "input", "link", "wbr"}


class Reader(HTMLParser):
    """Balances tags; collects the texts, the tags and every attribute that could make a request."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(page: Path) -> Reader:
    """The page, having passed what must hold of every page."""
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.open == []
    assert len(text.encode()) < 5_000_000
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in reader.links)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= reader.ids
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    assert not reader.tags & {"script", "iframe", "link", "object", "embed", "base"}
    return reader


def shown_in_a_browser(page: Path, folder: Path, width: int, dark: bool) -> Image.Image:
    """A screenshot of the page, which must have complained of nothing on its console (a script, a request)."""
    chromium = shutil.which("chromium") or pytest.skip("chromium is not installed")
    picture = folder / "page.png"
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    flags += " disable-component-update disable-sync hide-scrollbars enable-logging=stderr"
    flags += f" blink-settings=preferredColorScheme={0 if dark else 1} window-size={width},3000"
    flags += f" user-data-dir={folder / 'profile'} screenshot={picture}"
    ended = subprocess.run(
        [chromium, *(f"--{flag}" for flag in flags.split()), page.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert b"CONSOLE" not in ended.stderr
    return Image.open(picture).convert("RGB")
