"""Recipes that the server proposes to a site, and that a person approves there.

A recipe lies in a file that has its digest for a name. It is approved if it lies in `approved/` and its content still
has this digest, so a file that was changed afterwards is not approved. The server can only add to `proposed/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fedcore.config.shared_recipe import LARGEST, SHOWN, SharedRecipe, is_digest
from fedcore.errors import InputError, Refused
from fedcore.files.writing import write_atomically
from fedcore.messages.proposal import Proposal
from fedcore.messages.round import Round
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.site.home import SiteHome, private_folder

MOST_PROPOSED = 100
"""Recipes that a site keeps for a person to look at, so that a server cannot fill its disk."""
_BEFORE = Round(0, 1, 0)
State = Literal["proposed", "approved", "invalid"]


@dataclass(frozen=True)
class Entry:
    """A recipe in the folder of a site."""

    digest: str
    state: State
    """invalid: the content of the file is no recipe, or has another digest than its name; it is not approved."""
    recipe: SharedRecipe | None
    """None where it is invalid."""
    since: datetime


def propose(home: SiteHome, proposal: Proposal) -> bool:
    """Keeps a proposed recipe, and returns whether it is approved.

    Raises:
        Refused: It is no recipe, or too many wait to be looked at.
        InputError: The disk cannot be written.
    """
    try:
        recipe = SharedRecipe.received(proposal.command, proposal.recipe)
    except InputError as e:
        raise Refused(f"the proposed recipe cannot be used: {e}") from e
    if approved(home, recipe.digest):
        return True
    path = home.proposed / _file(recipe.digest)
    if not path.exists():
        if home.proposed.is_dir() and sum(1 for _ in home.proposed.iterdir()) >= MOST_PROPOSED:
            raise Refused(
                f"{MOST_PROPOSED} proposed recipes wait at this site, which keeps no more; at the site run: "
                "fedpretrain site recipes, and fedpretrain site withdraw DIGEST for those that are not wanted"
            )
        private_folder(home.proposed)
        write_atomically(path, recipe.as_file)
    return False


def approved(home: SiteHome, digest: str) -> SharedRecipe | None:
    """The recipe of this digest, if it is approved."""
    return _read(home.approved / _file(digest)) if is_digest(digest) else None


def approve(home: SiteHome, prefix: str) -> SharedRecipe:
    """Approves the proposed recipe whose digest begins so. What it needs is checked before (`fedcore.site.review`).

    Raises:
        InputError: There is no such proposal, or several begin so.
    """
    entry = find(home, prefix)
    if entry.state == "approved" and entry.recipe:
        return entry.recipe
    if entry.recipe is None:
        raise InputError(
            f"the file of recipe {entry.digest[:SHOWN]} was changed after it was proposed, or another version of "
            f"fedpretrain wrote it; run: fedpretrain site withdraw {entry.digest[:SHOWN]}, and let the server propose "
            "the recipe again"
        )
    private_folder(home.approved)
    write_atomically(home.approved / _file(entry.digest), entry.recipe.as_file, durable=True)
    (home.proposed / _file(entry.digest)).unlink(missing_ok=True)
    _note(home, "approval", entry)
    return entry.recipe


def withdraw(home: SiteHome, prefix: str) -> Entry:
    """Takes an approval back, from the next request on; the recipe is a proposal again. Of a proposal: deletes it.

    Raises:
        InputError: There is no such recipe, or several begin so.
    """
    entry = find(home, prefix)
    if entry.state == "approved" and entry.recipe:
        private_folder(home.proposed)
        write_atomically(home.proposed / _file(entry.digest), entry.recipe.as_file)
        (home.approved / _file(entry.digest)).unlink(missing_ok=True)
    else:
        for folder in (home.approved, home.proposed):
            (folder / _file(entry.digest)).unlink(missing_ok=True)
    _note(home, "withdrawal", entry)
    return entry


def listing(home: SiteHome) -> list[Entry]:
    """All recipes in the folder of a site, the oldest first."""
    entries = {entry.digest: entry for entry in (*_entries(home.proposed), *_entries(home.approved))}
    return sorted(entries.values(), key=lambda entry: entry.since)


def last_approved(home: SiteHome, command: str, but: str) -> SharedRecipe | None:
    """The recipe of a command that was approved last, other than that of the digest `but`."""
    found = [
        entry.recipe
        for entry in listing(home)
        if entry.state == "approved" and entry.recipe and entry.recipe.command == command and entry.digest != but
    ]
    return found[-1] if found else None


def find(home: SiteHome, prefix: str) -> Entry:
    """The one recipe whose digest begins so.

    Raises:
        InputError: There is none, or there are several.
    """
    found = [entry for entry in listing(home) if entry.digest.startswith(prefix.lower())]
    if len(prefix) < 6 or not found:
        known = ", ".join(entry.digest[:SHOWN] for entry in listing(home)) or "none"
        raise InputError(
            f"a recipe is named by 6 or more digits of its digest, got {prefix!r}; this site has {known} "
            "(fedpretrain site recipes)"
        )
    if len(found) > 1:
        raise InputError(f"{len(found)} recipes begin with {prefix!r}; give more digits of the digest")
    return found[0]


def _entries(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else ():
        if is_digest(path.stem):
            recipe = _read(path)
            state: State = "invalid" if recipe is None else "approved" if folder.name == "approved" else "proposed"
            yield Entry(path.stem, state, recipe, datetime.fromtimestamp(path.lstat().st_mtime, UTC))


def _read(path: Path) -> SharedRecipe | None:
    """None where it is missing or invalid."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 2 * LARGEST:
            return None
        recipe = SharedRecipe.of_file(path.read_bytes())
    except (OSError, InputError):
        return None
    return recipe if recipe.digest == path.stem else None


def _file(digest: str) -> str:
    return f"{digest}.yaml"


def _note(home: SiteHome, what: str, entry: Entry) -> None:
    AuditLog(Policy(), home.path, recipe=entry.digest).note({"what": what}, _BEFORE)
