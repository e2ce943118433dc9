"""`fedpretrain site check`: what would keep this site from taking part, one line for each cause."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from fedcore.config.arguments import call
from fedcore.data.cache.folder import default_folder
from fedcore.data.source import Data
from fedcore.deployment.hospital.join import KIT
from fedcore.deployment.invitation import FILE, Invitation
from fedcore.errors import InputError
from fedcore.runs.environment import version, versions
from fedcore.site.home import SiteHome
from fedcore.site.settings import SiteSettings
from fedcore.tables import terminal, text_table

_TIMEOUT = 10.0
_FREE = 5 << 30
"""Bytes that must be free."""
_SOON_DAYS = 30


def check(words: Sequence[str]) -> int:
    return int(call(check_site, "site check", words))


def check_site(home: Path = Path()) -> int:
    """Looks at everything that must hold before this site can take part.

    Args:
        home: Folder of the site.

    Returns:
        0: all is well; 1: something must be corrected.
    """
    site = SiteHome.open(home)
    found = dict(_checks(site))
    rows = {name: ["ok" if error is None else "WRONG", error or ""] for name, error in found.items()}
    terminal().print(text_table("check", ("", "what was found, and what to do"), rows))
    return int(any(found.values()))


def _checks(site: SiteHome) -> Iterator[tuple[str, str | None]]:
    """Names of checks, each with what is wrong."""
    invitation = Invitation.read(site.path / FILE)
    settings: SiteSettings | None = None
    try:
        settings = site.settings()
        yield (
            "settings",
            None
            if settings.name == invitation.site
            else (
                f"site.yaml has the name {settings.name}, the certificate {invitation.site}; correct name in site.yaml"
            ),
        )
    except InputError as e:
        yield "settings", str(e)
    yield "versions", _versions(invitation)
    address = invitation.host, invitation.port
    yield (
        "name",
        _caught(lambda: socket.getaddrinfo(*address), f"{invitation.host} has no address; ask your network team"),
    )
    reason = (
        f"no answer from {invitation.host}:{invitation.port}; allow this outgoing connection, or ask whether it serves"
    )
    yield "port", _caught(lambda: socket.create_connection(address, _TIMEOUT).close(), reason)
    if not (site.path / KIT).is_dir():
        yield "certificate", "this site has not joined yet; run: fedpretrain site join SIGNED.zip"
        return
    startup = site.path / KIT / "startup"
    yield "certificate", _certificate(startup / "client.crt", invitation.site)
    yield "TLS", _tls(startup, invitation)
    if settings is not None:
        yield "data", _data(site, settings)
        yield "accelerator", _accelerator(settings)
        cache = site.path / settings.cache if settings.cache else default_folder()
        free = shutil.disk_usage(next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())).free
        enough = free >= _FREE
        yield "disk", None if enough else f"{free >> 20} MiB are free at {cache}, {_FREE >> 20} are needed; free some"


def _versions(invitation: Invitation) -> str | None:
    installed = {*versions(), f"nvflare {version('nvflare')}"}
    minor = {_minor(text) for text in installed}
    wrong = [text for text in invitation.versions if _minor(text) not in minor]
    return f"the coordinator has {', '.join(wrong)}; install the same minor versions" if wrong else None


def _minor(text: str) -> str:
    package, _, number = text.partition(" ")
    return f"{package} {'.'.join(number.split('.')[:2])}"


def _caught(what: Callable[[], object], reason: str) -> str | None:
    try:
        what()
    except OSError as e:
        return f"{reason} ({e.strerror or type(e).__name__})"
    return None


def _certificate(path: Path, name: str) -> str | None:
    """Also finds a clock that is wrong: then the certificate seems not valid yet, or not valid any more."""
    from cryptography.x509 import load_pem_x509_certificate
    from cryptography.x509.oid import NameOID

    certificate, now = load_pem_x509_certificate(path.read_bytes()), datetime.now(UTC)
    named = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if named != name:
        return f"it is of {named}, and this site is {name}; join anew from the invitation of {name}"
    if now < begin:
        return f"it is valid from {begin:%Y-%m-%d %H:%M}, and the clock says {now:%Y-%m-%d %H:%M} UTC; set the clock"
    if now > end:
        return f"it ended at {end:%Y-%m-%d}; ask the coordinator for a new invitation (or set the clock)"
    if (end - now).days < _SOON_DAYS:
        return f"it ends at {end:%Y-%m-%d}; ask the coordinator for a new invitation"
    return None


def _tls(startup: Path, invitation: Invitation) -> str | None:
    """A mutual handshake with the server, as FLARE makes it."""
    context = ssl.create_default_context(cafile=str(startup / "rootCA.pem"))
    context.load_cert_chain(str(startup / "client.crt"), str(startup / "client.key"))
    context.check_hostname = False  # FLARE binds the server's name in the certificate itself
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((invitation.host, invitation.port), _TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=invitation.host) as secure,
        ):
            secure.settimeout(1.0)
            with suppress(TimeoutError):  # the server has nothing to say first; a refused certificate is an alert
                secure.recv(1)
    except ssl.SSLError as e:
        return (
            f"{e.reason or e}: the server, a proxy between, or this site has another authority; ask for the fingerprint"
        )
    except OSError as e:
        return f"no connection ({e.strerror or type(e).__name__}); see the check of the port"
    return None


def _data(site: SiteHome, settings: SiteSettings) -> str | None:
    try:
        values = settings.recipe_values(site.path)
        path = str(values["data.manifest"])
        rows = Data(path, columns=settings.columns, on_error=settings.on_error).read_manifest(path).rows
    except InputError as e:
        return str(e)
    others = sorted({row.site for row in rows} - {settings.name})
    if not any(row.site == settings.name for row in rows):
        return (
            f"the manifest has no row of the site {settings.name}, it has {', '.join(others[:3])}; correct column site"
        )
    return None


def _accelerator(settings: SiteSettings) -> str | None:
    import torch

    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        return "site.yaml says gpu, and torch finds none; install a driver, or set accelerator to auto"
    return None
