"""How a hospital joins a deployment: it makes a key, the centre signs a request, the kit is installed and closed."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedcore.deployment.flare.certificates import (
    CertificateRequest,
    install_kit,
    make_request,
    plain_fingerprint,
    root_fingerprint,
)
from fedcore.deployment.flare.kit import tighten_site
from fedcore.deployment.invitation import FILE, Invitation
from fedcore.errors import InputError
from fedcore.files.lock import holds_nothing
from fedcore.files.writing import write_atomically
from fedcore.site.home import SiteHome
from fedcore.site.settings import SETTINGS, settings_text

KIT, REQUEST = "kit", "request"


def new_site(invitation: Path, folder: Path | None = None) -> tuple[SiteHome, Path, CertificateRequest]:
    """Makes the folder of a site, with a private key that never leaves it.

    Args:
        invitation: File that the coordinator sent.
        folder: A new folder; None: one in the current folder, with the site's name.

    Returns:
        The site, the file to send to the coordinator, and what it says.

    Raises:
        InputError: It is no invitation, or the folder exists; nothing is left behind.
    """
    found = Invitation.read(invitation)
    path = (folder or Path(found.site)).absolute()
    if not holds_nothing(path):
        raise InputError(f"{path} exists already; name another folder with --home, or remove it")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        participant = {"name": found.site, "type": "client", "org": found.site}
        request = make_request(path / REQUEST, found.deployment, participant)
        write_atomically(path / FILE, invitation.read_bytes())
        write_atomically(path / SETTINGS, settings_text(found.site).encode())
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return SiteHome.open(path), request, CertificateRequest.read(request)


def join(home: SiteHome, signed: Path, fingerprint: str) -> None:
    """Installs the kit of the site, closed as `fedcore.deployment.flare.kit` says.

    Args:
        home: The site.
        signed: File that the coordinator sent back.
        fingerprint: Of the deployment's authority, as the coordinator reads it out by phone.

    Raises:
        InputError: The site has joined already, the fingerprint is another one, or the file is for another site, or
            for a key that is not in this folder.
    """
    invitation, given = Invitation.read(home.path / FILE), plain_fingerprint(fingerprint)
    if (home.path / KIT).exists():
        raise InputError(f"{home.path} has joined already; to join anew, make a new folder from the invitation")
    found = root_fingerprint(signed)
    if not found == given == plain_fingerprint(invitation.fingerprint):
        raise InputError(
            f"the fingerprints differ: {given} was given, {found} is in {signed.name}, and {invitation.fingerprint} "
            "in the invitation. Do not go on; ask the coordinator by phone which one is right"
        )
    if not (home.path / REQUEST / f"{invitation.site}.key").is_file():
        raise InputError(
            f"{home.path / REQUEST} holds no private key of {invitation.site}: join on the machine, and in the folder, "
            "where `site new` was run; the key never leaves it"
        )
    try:
        install_kit(signed, home.path / REQUEST, given, home.path / KIT)
        tighten_site(home.path / KIT)
    except BaseException:
        shutil.rmtree(home.path / KIT, ignore_errors=True)
        raise
