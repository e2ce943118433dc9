"""`fedpretrain site audit | page`: what left a hospital, by its own log, and its page of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedcore.config.arguments import call
from fedcore.errors import InputError
from fedcore.privacy.audit_log import AUDIT_LOG
from fedcore.report.read.levels import highest_level, level_sentence
from fedcore.report.read.parse import read_lines, whole
from fedcore.report.site_page import write_site_page
from fedcore.report.units import size
from fedcore.site.home import SiteHome
from fedcore.suggest import suggestion
from fedcore.tables import terminal, text_table


def audit(words: Sequence[str]) -> None:
    """`site audit [RUN] [--home FOLDER]`."""
    call(show_run if words and not words[0].startswith("-") else list_runs, "site audit", words)


def page(words: Sequence[str]) -> None:
    """`site page [RUN] [--images false] [--home FOLDER]`."""
    call(write_page if words and not words[0].startswith("-") else write_last_page, "site page", words)


@dataclass
class _Sent:
    """What lines of a log have in common."""

    lines: int = 0
    bytes: int = 0
    levels: set[str] = field(default_factory=set)
    to: set[str] = field(default_factory=set)
    rounds: set[int] = field(default_factory=set)
    refusals: int = 0
    last: str = ""

    def add(self, line: dict[str, object]) -> None:
        self.lines += 1
        self.bytes += whole(line.get("bytes")) or 0
        self.levels.add(str(line.get("reveals") or ""))
        self.to |= {name for name in str(line.get("to") or "").split(", ") if name}
        self.refusals += line.get("what") == "refusal"
        if line.get("request") == "train" and (at := whole(line.get("round"))) is not None:
            self.rounds.add(at)
        self.last = max(self.last, str(line.get("time") or ""))


def list_runs(home: Path = Path()) -> None:
    """Lists the runs that this site has taken part in, with what left it.

    Args:
        home: The site's folder.
    """
    site = SiteHome.open(home)
    names = site.run_names()
    if not names:
        print("this site has taken part in no run yet")
        return
    gaps, rows = list[str](), dict[str, tuple[str, ...]]()
    for name in names:
        sent = _Sent()
        for line in read_lines(site.runs / name / AUDIT_LOG, gaps, label=f"the audit log of {name}"):
            sent.add(line)
        rows[name] = (
            str(len(sent.rounds)),
            highest_level(sent.levels),
            size(sent.bytes),
            str(sent.refusals),
            _moment(sent.last),
        )
    terminal().print(text_table("run", ["rounds", "level", "sent", "declined", "last"], rows))
    _print_gaps(gaps)
    print("show one: fedpretrain site audit RUN")


def show_run(run: str, home: Path = Path()) -> None:
    """Shows what left this site in a run.

    Args:
        run: Name of the run.
        home: The site's folder.
    """
    folder = _folder(SiteHome.open(home), run)
    gaps, sent, reasons = list[str](), dict[str, _Sent](), dict[str, int]()
    missing = 0
    for at, line in enumerate(read_lines(folder / AUDIT_LOG, gaps, label="the audit log")):
        missing += line.get("seq") != at
        if line.get("what") == "refusal":
            text = str(line.get("text"))
            reasons[text] = reasons.get(text, 0) + 1
        request, what = line.get("request") or "other", line.get("field") or line.get("what")
        sent.setdefault(f"{request}: {what}", _Sent()).add(line)
    rows = {
        key: (highest_level(of.levels), ", ".join(sorted(of.to)), str(of.lines), size(of.bytes), _moment(of.last))
        for key, of in sent.items()
    }
    terminal().print(text_table("what left", ["level", "to", "times", "bytes", "last"], rows))
    print(level_sentence(highest_level(level for of in sent.values() for level in of.levels)))
    for reason, count in reasons.items():
        terminal().print(f"declined {count} times: {reason}", soft_wrap=True)
    if missing:
        gaps.append(f"{missing} lines of the audit log are not in their places: a line was lost or removed.")
    _print_gaps(gaps)
    print(f"all lines: {folder / AUDIT_LOG}")


def write_page(run: str, images: bool = True, home: Path = Path()) -> None:
    """Writes this site's page of a run, and prints where it is.

    Args:
        run: Name of the run.
        images: False: a page without images and features of single images.
        home: The site's folder.
    """
    print(write_site_page(_folder(SiteHome.open(home), run), images))


def write_last_page(images: bool = True, home: Path = Path()) -> None:
    """Writes this site's page of the last run, and prints where it is.

    Args:
        images: False: a page without images and features of single images.
        home: The site's folder.
    """
    names = SiteHome.open(home).run_names()
    if not names:
        raise InputError("this site has taken part in no run yet, so there is no page; see fedpretrain site recipes")
    write_page(names[-1], images, home)


def _folder(home: SiteHome, run: str) -> Path:
    """Raises InputError where this site has taken part in no such run."""
    names = home.run_names()
    if run not in names:
        raise InputError(
            f"this site has taken part in no run {run!r}{suggestion(run, names)}; see fedpretrain site audit"
        )
    return home.runs / run


def _moment(time: str) -> str:
    """Of a line's time, to the minute."""
    return time[:16].replace("T", " ")


def _print_gaps(gaps: Sequence[str]) -> None:
    for gap in gaps:
        terminal().print(f"note: {gap}", soft_wrap=True)
