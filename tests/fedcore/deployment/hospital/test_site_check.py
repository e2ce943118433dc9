"""The check names the one thing that is wrong."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from fedcore.data.phantom.phantoms import Phantoms
from fedcore.deployment.hospital import check as module
from fedcore.deployment.hospital.check import check
from fedcore.deployment.invitation import FILE
from fedcore.site.home import SiteHome
from fedcore.site.settings import SETTINGS, set_data
from tests.fedcore.deployment.joined import joined


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteHome:
    folder = tmp_path_factory.mktemp("deployment")
    home = joined(folder).home
    set_data(home.path, Phantoms(sites=2, images_per_site=8).write(folder / "images", 16))
    return home


@pytest.fixture
def listening(site: SiteHome) -> Iterator[None]:
    """Something answers at the port that is no server."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("localhost", 8123))
        server.listen()
        yield


def found(site: SiteHome) -> dict[str, str | None]:
    return dict(module._checks(site))


def wrong(site: SiteHome) -> dict[str, str]:
    return {name: text for name, text in found(site).items() if text}


@pytest.fixture
def edit(site: SiteHome) -> Iterator[Any]:
    """Changes a text in a file of the site for one test."""
    before: dict[Path, str] = {}

    def change(file: str, old: str, new: str) -> None:
        path = site.path / file
        before.setdefault(path, path.read_text())
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    yield change
    for path, text in before.items():
        path.write_text(text)


def test_a_site_without_its_server_learns_that_the_port_is_closed(
    site: SiteHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrong(site).keys() == {"port", "TLS"}
    assert "no answer from localhost:8123" in wrong(site)["port"]
    assert check(["--home", str(site.path)]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_settings_of_another_name_are_named(site: SiteHome, edit: Any) -> None:
    edit(SETTINGS, "name: hospital_1", "name: hospital_2")
    assert "the certificate hospital_1; correct name in site.yaml" in wrong(site)["settings"]


def test_settings_that_cannot_be_read_are_named(site: SiteHome, edit: Any) -> None:
    edit(SETTINGS, "accelerator: auto", "accelerator: fast")
    assert "accelerator must be one of" in wrong(site)["settings"]


def test_a_manifest_without_rows_of_this_site_is_named(site: SiteHome, edit: Any, tmp_path: Path) -> None:
    manifest = site.settings().manifest
    assert manifest is not None
    text = (site.path / manifest).read_text().replace(",hospital_1,", ",elsewhere,")
    other = manifest.parent / "others.csv"
    (site.path / other).write_text(text)
    edit(SETTINGS, str(manifest), str(other))
    assert "no row of the site hospital_1, it has elsewhere, hospital_2" in wrong(site)["data"]


def test_a_host_without_address_is_named(site: SiteHome, edit: Any) -> None:
    edit(FILE, "host: localhost", "host: no-such-host.invalid")
    assert "no-such-host.invalid has no address" in wrong(site)["name"]


def test_other_versions_are_named(site: SiteHome, edit: Any) -> None:
    edit(FILE, "- nvflare 2.9", "- nvflare 3.1")
    assert wrong(site)["versions"].startswith("the coordinator has nvflare 3.1")


@pytest.mark.parametrize(
    ("days", "text"),
    [(-1, "set the clock"), (2000, "it ended at"), (1080, "it ends at")],
)
def test_a_clock_that_is_wrong_is_named(site: SiteHome, monkeypatch: pytest.MonkeyPatch, days: int, text: str) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(UTC) + timedelta(days=days)

    monkeypatch.setattr(module, "datetime", Clock)
    assert text in wrong(site)["certificate"]


def test_a_certificate_of_another_site_is_named(site: SiteHome, edit: Any) -> None:
    edit(FILE, "site: hospital_1", "site: hospital_2")
    assert "it is of hospital_1, and this site is hospital_2" in wrong(site)["certificate"]


def test_a_server_that_speaks_no_tls_is_named(site: SiteHome, listening: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.3)
    assert wrong(site).keys() == {"TLS"}


def test_a_full_disk_is_named(site: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FREE", 1 << 60)
    assert "are needed; free some" in wrong(site)["disk"]
