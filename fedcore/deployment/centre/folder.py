"""The folder of a deployment at the coordinating centre.

deploy.yaml          name, host, port, fingerprint of the authority
profile.yaml, ca/    the authority: its private key signs certificates of sites
server/, admin/      kits of FLARE: of the server's process, and of the coordinator's commands
storage/             what FLARE keeps of its jobs
sites/               invited sites, and their signed certificates to be sent back
jobs/                what commands ask of the server's process
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedcore.deployment.flare.certificates import (
    CertificateRequest,
    install_kit,
    make_request,
    make_root,
    sign,
)
from fedcore.deployment.flare.kit import tighten_server
from fedcore.deployment.invitation import Invitation
from fedcore.deployment.names import require_host, require_name, require_port
from fedcore.errors import InputError
from fedcore.files.lock import holds_nothing
from fedcore.files.reading import read_json, read_yaml
from fedcore.files.writing import write_json
from fedcore.runs.environment import version, versions

FILE = "deploy.yaml"
COORDINATOR = "coordinator@centre.org"
"""Name in the certificate of the coordinator's commands; FLARE wants the form of an address."""
_ADVICE = "restore the folder from a backup"


@dataclass(frozen=True)
class SiteEntry:
    """What the centre knows of a site. Times are ISO 8601 in UTC."""

    name: str
    invited: str
    signed: str = ""
    request: str = ""
    """SHA-256 of its certificate request."""
    removed: str = ""

    @property
    def takes_part(self) -> bool:
        return bool(self.signed) and not self.removed


@dataclass(frozen=True)
class Centre:
    path: Path
    name: str
    host: str
    port: int
    fingerprint: str

    @classmethod
    def init(cls, path: Path, host: str, port: int = 8002) -> Centre:
        """Creates authority, server and coordinator of a new deployment.

        Args:
            path: A new folder; its name is the deployment's.
            host: By which hospitals reach the server.
            port: The one port that they need.

        Raises:
            InputError: The folder exists, or a name cannot be used; nothing is left behind.
        """
        name = require_name(path.name, "the name of a deployment")
        host, port = require_host(host), require_port(port)
        if not holds_nothing(path):
            raise InputError(f"{path} exists already; choose another name, or remove the folder")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve()
        try:
            fingerprint = make_root(path, name, host, port)
            people: list[tuple[Path, Mapping[str, Any]]] = [
                (path / "server", {"name": host, "type": "server", "org": "centre", "default_host": host,
                                   "fed_learn_port": port}),
                (path / "admin", {"name": COORDINATOR, "type": "admin", "org": "centre", "role": "lead"}),
            ]  # fmt: skip
            for kit, participant in people:
                keys = path / f".{kit.name}"
                signed = sign(path, make_request(keys, name, participant), keys / f"{kit.name}.signed.zip")
                install_kit(signed, keys, fingerprint, kit)
                shutil.rmtree(keys)
            tighten_server(path / "server", path / "storage")
            for folder in ("sites", "jobs"):
                (path / folder).mkdir(mode=0o700)
            write_json(path / FILE, {"name": name, "host": host, "port": port, "fingerprint": fingerprint})
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return cls(path, name, host, port, fingerprint)

    @classmethod
    def open(cls, path: Path) -> Centre:
        """Raises InputError where there is no deployment."""
        if not (path / FILE).is_file():
            raise InputError(
                f"{path} holds no deployment ({FILE}); create one with: fedpretrain deploy init {path} --host HOST"
            )
        found = read_yaml(path / FILE, _ADVICE)
        try:
            return cls(path.resolve(), str(found["name"]), str(found["host"]), int(found["port"]),
                       str(found["fingerprint"]))  # fmt: skip
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"{path / FILE} is damaged; {_ADVICE}") from e

    @property
    def server_kit(self) -> Path:
        return self.path / "server"

    @property
    def admin_kit(self) -> Path:
        return self.path / "admin"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    def sites(self) -> dict[str, SiteEntry]:
        """By name, in the order of names."""
        found = [SiteEntry(**read_json(path, _ADVICE)) for path in sorted((self.path / "sites").glob("*.json"))]
        return {entry.name: entry for entry in found}

    def invite(self, name: str) -> Path:
        """Writes the invitation of a site, a text to be sent; the same again if the site has one.

        Raises:
            InputError: The name cannot be used, or the site was removed.
        """
        require_name(name, "the name of a site")
        entry = self.sites().get(name, SiteEntry(name, _now()))
        if entry.removed:
            raise InputError(f"{name} was removed from {self.name}; invite it under another name")
        installed = (*versions(), f"nvflare {version('nvflare')}")
        text = Invitation(self.name, name, self.host, self.port, self.fingerprint, installed).text()
        self._write(entry)
        path = self.path / "sites" / f"{name}.invitation.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def sign(self, request: Path) -> tuple[CertificateRequest, Path]:
        """Signs the certificate request of an invited site; returns it with the file to be sent back.

        Raises:
            InputError: It is no request of an invited site of this deployment, or the site has a certificate.
        """
        found = CertificateRequest.read(request)
        if found.deployment != self.name or found.kind != "client":
            what = f"a {found.kind} of {found.deployment!r}"
            raise InputError(f"{request} must be the request of a site of {self.name}, it is one of {what}")
        entry = self.sites().get(found.name)
        if entry is None or entry.removed:
            state = "was removed" if entry else "was not invited"
            raise InputError(f"{found.name!r} {state}; run first: fedpretrain deploy invite {self.path} SITE")
        if entry.signed:
            raise InputError(
                f"{found.name} has a certificate already, of {entry.signed}; to give it a new one, remove the site "
                "and invite it under another name"
            )
        signed = sign(self.path, request, self.path / "sites" / f"{found.name}.signed.zip")
        self._write(replace(entry, signed=_now(), request=found.digest))
        return found, signed

    def remove(self, name: str) -> None:
        """Notes that a site takes part no more; the server must be told as well."""
        entries = self.sites()
        if name not in entries:
            raise InputError(f"{self.name} has no site {name!r}; it has {', '.join(entries) or 'none'}")
        self._write(replace(entries[name], removed=_now()))

    def _write(self, entry: SiteEntry) -> None:
        write_json(self.path / "sites" / f"{entry.name}.json", asdict(entry))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
