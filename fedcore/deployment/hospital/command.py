"""`fedpretrain site`: the hospital's commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.config.arguments import call
from fedcore.deployment.flare.processes import run_in_foreground, site_command
from fedcore.deployment.hospital.join import KIT, join, new_site
from fedcore.deployment.invitation import FILE, Invitation
from fedcore.deployment.subcommands import run
from fedcore.deployment.unit import unit_text
from fedcore.errors import InputError
from fedcore.site.home import SiteHome

USAGE = """usage: fedpretrain site new INVITATION [--home FOLDER]                 a folder for this site, with its key
       fedpretrain site join SIGNED.zip --fingerprint 39:DF:... [--home FOLDER]
       fedpretrain site data MANIFEST.csv [--policy LEVEL]             the images of this site, and what it may send
       fedpretrain site check                                          what would keep this site from taking part
       fedpretrain site start [--unit true]                            takes part until Ctrl-C, or prints a systemd unit
       fedpretrain site recipes [DIGEST]                               recipes: proposed, approved; what one would send
       fedpretrain site approve DIGEST                                 lets a recipe run here
       fedpretrain site withdraw DIGEST                                takes an approval back
       fedpretrain site audit [RUN]                                    what left this site
       fedpretrain site page [RUN]                                     this site's page of a run

All but the first run in the site's folder, or take --home FOLDER."""
_HERE = "fedcore.deployment.hospital"
COMMANDS = {
    "new": f"{_HERE}.command:new", "join": f"{_HERE}.command:join_deployment", "start": f"{_HERE}.command:start",
    "check": f"{_HERE}.check:check", "data": f"{_HERE}.data:data", "recipes": f"{_HERE}.recipes:recipes",
    "approve": f"{_HERE}.recipes:approve", "withdraw": f"{_HERE}.recipes:withdraw", "audit": f"{_HERE}.audit:audit",
    "page": f"{_HERE}.audit:page",
}  # fmt: skip


def command(arguments: Sequence[str]) -> int:
    return run("site", USAGE, COMMANDS, arguments)


def new(words: Sequence[str]) -> None:
    call(create_site, "site new", words)


def join_deployment(words: Sequence[str]) -> None:
    call(install, "site join", words)


def start(words: Sequence[str]) -> None:
    call(run_site, "site start", words)


def create_site(invitation: Path, home: Path | None = None) -> None:
    """Makes the folder of a site from an invitation.

    Args:
        invitation: File that the coordinator sent.
        home: A new folder; null: one with the site's name.
    """
    site, request, about = new_site(invitation, home)
    folder = site.path
    print(f"send this file to the coordinator: {request}\nrequest: {about.digest}")
    print(
        "compare it by phone, and ask for the fingerprint; then\n"
        f"next: fedpretrain site join {about.name}.signed.zip --fingerprint FINGERPRINT --home {folder}"
    )


def install(signed: Path, fingerprint: str = "", home: Path = Path()) -> None:
    """Installs the kit of this site.

    Args:
        signed: File that the coordinator sent back.
        fingerprint: Of the deployment's authority, read out by phone.
        home: Folder of the site.
    """
    site = SiteHome.open(home)
    join(site, signed, fingerprint)
    found = Invitation.read(site.path / FILE)
    print(f"{found.site} has joined {found.deployment}\nnext: fedpretrain site data MANIFEST.csv --home {home}")


def run_site(home: Path = Path(), unit: bool = False) -> None:
    """Takes part in runs until Ctrl-C.

    Args:
        home: Folder of the site.
        unit: Print a systemd unit instead.
    """
    site = SiteHome.open(home)
    kit, name = site.path / KIT, site.settings().name
    if not kit.is_dir():
        raise InputError(f"{site.path} has not joined a deployment yet; run first: fedpretrain site join SIGNED.zip")
    if unit:
        print(unit_text(f"site {name}", ["site", "start", "--home", str(site.path)], site.path), end="")
        return
    print(f"{name} takes part; log: {site.path / 'flare.log'}", flush=True)
    run_in_foreground(site_command(kit, name), kit)
