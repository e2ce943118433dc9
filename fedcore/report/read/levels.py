"""Privacy levels of what a run sent: their order, their meaning in plain words, and whether all records agree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedcore.messages.reveals import Reveals

if TYPE_CHECKING:
    from fedcore.report.read.run import Run

LEVELS = tuple(level.name for level in Reveals)
MOST_SENSITIVE = "Most sensitive data sent"
_MEANING = {
    "WEIGHTS": "model weights and number of images",
    "STATISTICS": "statistics over images",
    "FEATURES": "feature vectors of single images",
    "SAMPLES": "images or samples like them",
}


def highest_level(levels: Iterable[str]) -> str:
    """The most sensitive of some levels, "" if there is none; a name that `LEVELS` lacks ranks highest."""
    rank = {level: at for at, level in enumerate(("", *LEVELS))}
    return max(levels, key=lambda level: rank.get(level, len(rank)), default="")


def meaning(level: str) -> str:
    """A level in plain words, the same on pages, cards and in the terminal."""
    return _MEANING.get(level, "")


def level_sentence(level: str) -> str:
    """One line of the terminal."""
    return f"{MOST_SENSITIVE}: {level} ({meaning(level)})" if level else "No data sent yet"


def level_of_run(run: Run) -> str:
    """The highest level of all that the server received, in rounds and outside of them; "" if nothing was sent."""
    outside = (visit for answer in run.answers for visit in answer.values())
    return highest_level(visit.reveals for visit in (*run.visits, *outside))


def level_of_site(run: Run, site: str) -> str:
    """The highest level that the server recorded of a site."""
    answers = (*(one.visits for one in run.rounds), *run.answers)
    return highest_level(visits[site].reveals for visits in answers if site in visits)


def disagreements(run: Run) -> list[str]:
    """Sites whose own audit log lists something more sensitive than the server recorded of them."""
    found = []
    for site, log in run.audit_logs.items():
        listed, recorded = highest_level(total.reveals for total in log.values()), level_of_site(run, site)
        if recorded and highest_level([listed, recorded]) != recorded:
            found.append(f"The audit log of {site} lists {listed}, but the run recorded {recorded} at most for it.")
    return found
