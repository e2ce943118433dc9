"""`fedpretrain site recipes | approve | withdraw`: a person decides which recipes run at a hospital."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from fedcore.config.arguments import call
from fedcore.config.shared_recipe import SHOWN
from fedcore.errors import InputError
from fedcore.report.read.levels import meaning
from fedcore.report.units import plural, size
from fedcore.site import approval
from fedcore.site.home import SiteHome
from fedcore.site.review import Review, review
from fedcore.tables import terminal, text_table


def recipes(words: Sequence[str]) -> None:
    """`site recipes [DIGEST] [--home FOLDER]`."""
    call(show_recipe if words and not words[0].startswith("-") else list_recipes, "site recipes", words)


def approve(words: Sequence[str]) -> None:
    """`site approve DIGEST [--home FOLDER]`."""
    call(approve_recipe, "site approve", words)


def withdraw(words: Sequence[str]) -> None:
    """`site withdraw DIGEST [--home FOLDER]`."""
    call(withdraw_recipe, "site withdraw", words)


def list_recipes(home: Path = Path()) -> None:
    """Lists the recipes that the server has proposed, and those that are approved.

    Args:
        home: The site's folder.
    """
    entries = approval.listing(SiteHome.open(home))
    if not entries:
        print("no recipe has been proposed yet")
        return
    rows = {
        entry.digest[:SHOWN]: (
            entry.recipe.command if entry.recipe else "?", entry.state,
            entry.since.astimezone().strftime("%Y-%m-%d %H:%M"),
        )
        for entry in entries
    }  # fmt: skip
    terminal().print(text_table("recipe", ["command", "state", "since"], rows))
    print("show one: fedpretrain site recipes DIGEST; let it run here: fedpretrain site approve DIGEST")


def show_recipe(digest: str, home: Path = Path()) -> None:
    """Shows whose code a recipe runs, what would be sent, and what has changed since the last approved one.

    Args:
        digest: The first digits of the recipe's digest.
        home: The site's folder.
    """
    site = SiteHome.open(home)
    _show(_review(site, approval.find(site, digest)))


def approve_recipe(digest: str, home: Path = Path()) -> None:
    """Shows a recipe and approves it, if this site can run it.

    Args:
        digest: The first digits of the recipe's digest.
        home: The site's folder.
    """
    site = SiteHome.open(home)
    entry = approval.find(site, digest)
    _show(_review(site, entry))
    approval.approve(site, entry.digest)
    short = entry.digest[:SHOWN]
    print(f"\napproved: {short} runs when the server asks; take it back with: fedpretrain site withdraw {short}")


def withdraw_recipe(digest: str, home: Path = Path()) -> None:
    """Takes the approval of a recipe back, from the next request on; deletes a recipe that is only proposed.

    Args:
        digest: The first digits of the recipe's digest.
        home: The site's folder.
    """
    entry = approval.withdraw(SiteHome.open(home), digest)
    what = "withdrawn: the next request of its runs is declined" if entry.state == "approved" else "deleted"
    print(f"recipe {entry.digest[:SHOWN]} is {what}")


def _review(home: SiteHome, entry: approval.Entry) -> Review:
    if entry.recipe is None:
        raise InputError(
            f"the file of recipe {entry.digest[:SHOWN]} is no recipe, or was changed; remove it with: fedpretrain site "
            f"withdraw {entry.digest[:SHOWN]}"
        )
    return review(home, entry.recipe)


def _show(found: Review) -> None:
    console = terminal()
    console.print(f"recipe {found.recipe.digest}\ncommand: {found.recipe.command}, {plural(found.rounds, 'round')}\n")
    for part in _parts(found):
        console.print(part, soft_wrap=isinstance(part, str))


def _parts(found: Review) -> Iterator[Table | str]:
    yield text_table("code that it runs", ["package"], {path: (of,) for path, of in found.classes.items()})
    yield ""
    rows = {f"{item.word}: {item.message}.{item.field}": (item.reveals.name, item.recipients) for item in found.items}
    yield text_table("what this site would send", ["level", "to"], rows)
    yield ""
    for word, names in found.metrics.items():
        if names and found.policy.allows_metrics:
            yield f"metrics of {word} (STATISTICS): {', '.join(names)}"
    allowed = found.policy.max_level
    yield f"highest level in rounds: {found.level.name} ({meaning(found.level.name)}); this site allows {allowed.name}"
    if over := sorted({item.word for item in found.items if item.reveals > allowed}):
        yield f"requests that this site would decline, by its policy: {', '.join(over)}"
    yield f"numbers of images: {found.policy.counts}"
    yield from _traffic(found)
    yield ""
    yield from _changes(found)


def _traffic(found: Review) -> Iterator[str]:
    if found.traffic is None:
        yield f"bytes: not estimated{': ' + found.note if found.note else ', because this site has no training images'}"
        return
    down, up, count = found.traffic.down, found.traffic.up, found.rounds
    yield f"estimated, for one round: receives {size(down)}, sends {size(up)}"
    yield f"estimated, for {plural(count, 'round')}: receives {size(count * down)}, sends {size(count * up)}"
    if found.traffic.error:
        yield f"  (of the weights alone, because a trial step failed: {found.traffic.error})"


def _changes(found: Review) -> Iterator[Table | str]:
    if found.previous is None:
        yield f"no other recipe of {found.recipe.command} is approved here"
        return
    rows = {key: (before, now) for key, before, now in found.changes}
    yield text_table(f"changed since {found.previous.digest[:SHOWN]}", ["before", "now"], rows)
