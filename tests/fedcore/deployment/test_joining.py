"""From an invitation to a closed kit: what passes between coordinator and hospital, and what is refused."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from fedcore.deployment.centre.folder import Centre
from fedcore.deployment.flare.certificates import CertificateRequest, make_request
from fedcore.deployment.hospital.join import join, new_site
from fedcore.errors import InputError
from tests.fedcore.deployment.joined import Joined, joined


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    return joined(tmp_path_factory.mktemp("deployment"))


def test_keys_stay_where_they_were_made_and_others_cannot_read_them(made: Joined) -> None:
    for file in (made.request, made.signed):
        with zipfile.ZipFile(file) as archive:
            assert not any(b"PRIVATE KEY" in archive.read(name) for name in archive.namelist())
    keys = [path for root in (made.centre.path, made.home.path) for path in root.rglob("*.key")]
    assert len(keys) == 5  # authority, server, coordinator; of the site its request and its kit
    for key in keys:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for folder in (made.centre.path, made.home.path):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_both_sides_see_the_same_digest_and_fingerprint(made: Joined) -> None:
    digest = CertificateRequest.read(made.request).digest
    assert made.centre.sites()["hospital_1"].request == digest
    assert Centre.open(made.centre.path).fingerprint == made.centre.fingerprint


def test_a_request_is_signed_once(made: Joined) -> None:
    with pytest.raises(InputError, match="hospital_1 has a certificate already"):
        made.centre.sign(made.request)


def test_who_was_not_invited_gets_no_certificate(made: Joined, tmp_path: Path) -> None:
    stranger = make_request(tmp_path / "stranger", "brain", {"name": "stranger", "type": "client", "org": "x"})
    with pytest.raises(InputError, match="'stranger' was not invited"):
        made.centre.sign(stranger)


@pytest.mark.parametrize(
    "participant",
    [
        {"name": "hospital_1", "type": "admin", "org": "x", "role": "lead"},
        {"name": "hospital_1", "type": "server", "org": "x", "default_host": "localhost", "fed_learn_port": 1},
    ],
    ids=["admin", "server"],
)
def test_a_site_cannot_ask_to_be_coordinator_or_server(
    made: Joined, tmp_path: Path, participant: dict[str, object]
) -> None:
    try:
        request = make_request(tmp_path / "asks", "brain", participant)
    except InputError:
        return  # FLARE refuses such a name already
    with pytest.raises(InputError, match="must be the request of a site"):
        made.centre.sign(request)


def test_the_request_of_another_deployment_is_refused(made: Joined, tmp_path: Path) -> None:
    other = make_request(tmp_path / "other", "lung", {"name": "hospital_1", "type": "client", "org": "x"})
    with pytest.raises(InputError, match="it is one of a client of 'lung'"):
        made.centre.sign(other)


def test_a_request_whose_parts_do_not_agree_is_refused(made: Joined, tmp_path: Path) -> None:
    changed = tmp_path / "changed.zip"
    with zipfile.ZipFile(made.request) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b"hospital_1", b"hospital_2") if name == "site.yaml" else data)
    with pytest.raises(InputError, match="its parts do not agree"):
        made.centre.sign(changed)
    (tmp_path / "noise.zip").write_bytes(b"noise")
    with pytest.raises(InputError, match="is no zip file"):
        made.centre.sign(tmp_path / "noise.zip")


def test_a_site_joins_once(made: Joined) -> None:
    with pytest.raises(InputError, match="has joined already"):
        join(made.home, made.signed, made.centre.fingerprint)


def test_another_fingerprint_another_machine_and_another_site_are_refused(made: Joined, tmp_path: Path) -> None:
    home, request, _ = new_site(made.centre.invite("hospital_2"), tmp_path / "hospital_2")
    _, signed = made.centre.sign(request)
    with pytest.raises(InputError, match="the fingerprints differ"):
        join(home, signed, ":".join(["AB"] * 32))
    with pytest.raises(InputError, match="32 pairs of hexadecimal digits"):
        join(home, signed, "AB:CD")
    with pytest.raises(InputError, match="nvflare package"):
        join(home, made.signed, made.centre.fingerprint)
    shutil.rmtree(home.path / "request")
    with pytest.raises(InputError, match="holds no private key of hospital_2"):
        join(home, signed, made.centre.fingerprint)
    assert not (home.path / "kit").exists()


def test_folders_that_exist_are_left_alone(made: Joined, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        Centre.init(made.centre.path, "localhost")
    with pytest.raises(InputError, match="exists already"):
        new_site(made.centre.invite("hospital_1"), made.home.path)


@pytest.mark.parametrize(
    ("name", "host", "port", "error"),
    [
        ("brain", "not a host", 8002, "the host must be the name"),
        ("brain", "", 8002, "the host must be the name"),
        ("brain", "-a.org", 8002, "the host must be the name"),
        ("brain", "localhost", 0, "a port must lie in"),
        ("br ain", "localhost", 8002, "the name of a deployment must have"),
    ],
)
def test_names_that_cannot_be_used_leave_nothing_behind(
    tmp_path: Path, name: str, host: str, port: int, error: str
) -> None:
    with pytest.raises(InputError, match=error):
        Centre.init(tmp_path / name, host, port)
    assert not list(tmp_path.iterdir())


def test_an_invitation_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "invitation.yaml").write_text("site: a\n")
    with pytest.raises(InputError, match="is no invitation"):
        new_site(tmp_path / "invitation.yaml", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_kit_allows_one_class_no_code_and_no_logs(made: Joined) -> None:
    local = made.home.path / "kit" / "local"
    resources = json.loads((local / "resources.json").read_text())
    assert resources["class_allow_list"] == ["fedcore.deployment.flare.executor.SiteExecutor"]
    assert resources["class_list_enforcement_mode"] == "enforce"
    assert resources["allow_log_streaming"] is False
    assert not any("log" in part["id"] for part in resources["components"])
    server = json.loads((made.centre.server_kit / "local" / "resources.json").read_text())
    assert server["class_allow_list"] == ["fedcore.deployment.flare.controller.RoundsController"]
    assert "/tmp/nvflare" not in json.dumps(server)
