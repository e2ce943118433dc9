"""`fedpretrain deploy`: the coordinator's commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fedcore.config.arguments import call
from fedcore.deployment.centre.folder import COORDINATOR, Centre
from fedcore.deployment.centre.supervise import SILENT
from fedcore.deployment.flare.processes import run_in_foreground, server_command
from fedcore.deployment.subcommands import run
from fedcore.deployment.unit import unit_text
from fedcore.tables import terminal, text_table

USAGE = """usage: fedpretrain deploy init FOLDER --host HOST [--port 8002]   a new deployment, with its authority
       fedpretrain deploy invite FOLDER SITE                      an invitation to send to a hospital
       fedpretrain deploy sign FOLDER REQUEST.zip                 signs the request that the hospital sent back
       fedpretrain deploy serve FOLDER [--unit true]              runs the server, or prints a systemd unit for it
       fedpretrain deploy sites FOLDER                            sites: invited, signed, connected
       fedpretrain deploy remove FOLDER SITE                      a site takes part no more
       fedpretrain deploy try [RECIPE] [--sites 2]                all of it on this machine, with simulated images

Then any stage runs on the deployment: fedpretrain pretrain RECIPE --at FOLDER"""
_WORDS = ("init", "invite", "sign", "serve", "sites", "remove")
COMMANDS = {word: f"fedcore.deployment.centre.command:{word}" for word in _WORDS} | {
    "try": "fedcore.deployment.trial.command:command"
}


def command(arguments: Sequence[str]) -> int:
    return run("deploy", USAGE, COMMANDS, arguments)


def init(words: Sequence[str]) -> None:
    call(create, "deploy init", words)


def invite(words: Sequence[str]) -> None:
    call(invite_site, "deploy invite", words)


def sign(words: Sequence[str]) -> None:
    call(sign_request, "deploy sign", words)


def serve(words: Sequence[str]) -> None:
    call(run_server, "deploy serve", words)


def sites(words: Sequence[str]) -> None:
    call(list_sites, "deploy sites", words)


def remove(words: Sequence[str]) -> None:
    call(remove_site, "deploy remove", words)


def create(folder: Path, host: str = "", port: int = 8002) -> None:
    """Creates a deployment: authority, server and coordinator.

    Args:
        folder: A new folder; its name is the deployment's.
        host: Name by which hospitals reach the server.
        port: The one port that they need.
    """
    centre = Centre.init(folder, host, port)
    print(f"deployment {centre.name} at {centre.host}:{centre.port}\nfingerprint: {centre.fingerprint}")
    print(f"next: fedpretrain deploy serve {folder}\n      fedpretrain deploy invite {folder} SITE")


def invite_site(folder: Path, site: str) -> None:
    """Writes an invitation for a site.

    Args:
        folder: Of the deployment.
        site: Name of the site, as in the column `site` of its manifest.
    """
    path = Centre.open(folder).invite(site)
    print(f"send this file to {site}: {path}\nnext: fedpretrain deploy sign {folder} {site}.request.zip")


def sign_request(folder: Path, request: Path) -> None:
    """Signs the request of a site.

    Args:
        folder: Of the deployment.
        request: File that the site sent.
    """
    centre = Centre.open(folder)
    found, signed = centre.sign(request)
    print(f"compare by phone with {found.name}:\n  request      {found.digest}\n  fingerprint  {centre.fingerprint}")
    print(f"if both are equal there, send back: {signed}")


def run_server(folder: Path, unit: bool = False) -> None:
    """Runs the server until Ctrl-C.

    Args:
        folder: Of the deployment.
        unit: Print a systemd unit instead.
    """
    centre = Centre.open(folder)
    if unit:
        print(unit_text(f"server of {centre.name}", ["deploy", "serve", str(centre.path)], centre.path), end="")
        return
    print(f"serving {centre.name} on port {centre.port}; log: {centre.path / 'flare.log'}", flush=True)
    run_in_foreground(server_command(centre.server_kit), centre.server_kit)


def list_sites(folder: Path) -> None:
    """Lists the sites of a deployment.

    Args:
        folder: Of the deployment.
    """
    from fedcore.deployment.flare.jobs import connected

    centre = Centre.open(folder)
    with connected(COORDINATOR, centre.admin_kit) as engine:
        seen = engine.seen()
    rows = {}
    for name, entry in centre.sites().items():
        contact = seen.get(name)
        state = "removed" if entry.removed else "signed" if entry.signed else "invited"
        here = contact is not None and contact.silent <= SILENT
        rows[name] = [state, (entry.removed or entry.signed or entry.invited)[:10], "yes" if here else "no"]
    terminal().print(text_table("site", ("state", "since", "connected"), rows))


def remove_site(folder: Path, site: str) -> None:
    """Lets a site take part no more; the server refuses its connections from now on.

    Args:
        folder: Of the deployment.
        site: Name of the site.
    """
    from fedcore.deployment.flare.jobs import connected

    centre = Centre.open(folder)
    with connected(COORDINATOR, centre.admin_kit) as engine:
        engine.refuse(site)
    centre.remove(site)
    print(f"{site} takes part in {centre.name} no more", file=sys.stderr)
