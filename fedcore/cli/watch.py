"""`fedpretrain watch RUN`: the progress of a run in the terminal, read from its folder.

It can run on another machine that has access to the folder; it writes nothing and ends with the run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedcore.errors import InputError
from fedcore.report.read.levels import level_of_run, level_sentence
from fedcore.report.read.reader import read_run
from fedcore.report.read.run import RoundSummary, Run
from fedcore.report.units import size
from fedcore.tables import terminal

USAGE = """usage: fedpretrain watch RUN [--once]

Shows rounds, sites, curves and time left of a run until it ends. Ctrl-C ends the display, not the run.
--once prints them once; this is the default when the output is not a terminal."""

ENDED = ("finished", "failed", "stopped")
_COLOURS = {"running": "cyan", "trained": "cyan", "finished": "green", "failed": "red", "stopped": "yellow"}
_SPARKS = "▁▂▃▄▅▆▇█"


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case given if {"-h", "--help"} & {*given}:
            print(USAGE)
        case [run] if not run.startswith("-"):
            follow(Path(run)) if sys.stdout.isatty() else snapshot(Path(run))
        case [run, "--once"] | ["--once", run] if not run.startswith("-"):
            snapshot(Path(run))
        case _:
            raise InputError(f"watch needs the folder of a run\n{USAGE}")
    return 0


def snapshot(folder: Path) -> None:
    """Prints the progress once."""
    terminal().print(progress_view(read_run(folder), quiet_for(folder)))


def follow(folder: Path, pause: float = 1.0) -> None:
    """Shows the progress until the run has ended or Ctrl-C is pressed; `pause` is seconds between updates."""
    run, seen = read_run(folder), stamp(folder)
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        try:
            while True:
                live.update(progress_view(run, quiet_for(folder)), refresh=True)
                if run.status in ENDED:
                    return
                time.sleep(pause)
                if (now := stamp(folder)) != seen:
                    run, seen = read_run(folder), now
        except KeyboardInterrupt:
            return  # the run is another process and continues


def stamp(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Changes with the run's record, so that a long record is not read again every second."""
    return tuple(_stamp(folder / name) for name in ("run.json", "rounds.jsonl"))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def quiet_for(folder: Path) -> float:
    """Seconds since the record last changed."""
    last = max((found[0] for found in stamp(folder) if found), default=time.time_ns())
    return max(0.0, (time.time_ns() - last) / 1e9)


def progress_view(run: Run, quiet: float) -> RenderableType:
    """All that is shown of `run`; `quiet` is seconds since its record changed. Sites come last, as they may be many."""
    parts = [_header(run), _progress(run, quiet), *_curves(run), _traffic(run), *_notes(run, quiet)]
    return Group(*parts, _sites(run))


def _header(run: Run) -> Text:
    return Text.assemble((run.name, "bold"), f"  {run.command}  ", (run.status, _COLOURS.get(run.status, "")))


def _progress(run: Run, quiet: float) -> RenderableType:
    done, planned = len(run.rounds), run.planned_rounds
    row = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [ProgressBar(planned, done, width=28)] if planned else []
    cells.append(f"round {done} of {planned}" if planned else f"{done} rounds")
    cells.append(f"{_clock(elapsed(run, quiet))} so far" if run.status not in ENDED else _clock(run.seconds or 0.0))
    if (seconds := time_left(run, quiet)) is not None:
        cells.append(f"about {_clock(seconds)} left")
    row.add_row(*cells)
    return row


def elapsed(run: Run, quiet: float) -> float:
    """Seconds of training so far, including those of the current round since the last one ended."""
    return (run.seconds or 0.0) + (quiet if run.status == "running" and not silent(run, quiet) else 0.0)


def time_left(run: Run, quiet: float) -> float | None:
    """Seconds that the remaining rounds take if they are like the last ten; None if it cannot be estimated."""
    pace = [one.seconds for one in run.rounds[-10:] if one.seconds is not None]
    if run.status != "running" or not pace or not run.planned_rounds or silent(run, quiet):
        return None
    remaining = run.planned_rounds - len(run.rounds)
    return max(0.0, remaining * fmean(pace) - quiet) if remaining > 0 else None


def silent(run: Run, quiet: float) -> bool:
    """Whether the record of an unfinished run has not changed for so long that its process may have ended."""
    longest = max((one.seconds or 0.0 for one in run.rounds), default=None)
    return run.status in ("running", "trained") and longest is not None and quiet > max(120.0, 5 * longest)


def _curves(run: Run) -> list[Text]:
    losses = [_mean((v.metrics.get("loss"), v.examples) for v in one.visits.values()) for one in run.rounds]
    scores = [_mean((m.get("knn"), m.get("images", 1.0)) for m in one.evaluation.values()) for one in run.rounds]
    curves = {"loss": _known(losses), "kNN": _known(scores)}
    return [
        Text(f"{name:<5}{values[0]:8.3f} {sparkline(values)} {values[-1]:.3f}")
        for name, values in curves.items()
        if values
    ]


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """One bar per value, scaled from the minimum to the maximum; more than `width` values are averaged in groups."""
    count = min(width, len(values))
    edges = [at * len(values) // count for at in range(count + 1)]
    means = [fmean(values[a:b]) for a, b in pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    return "".join(_SPARKS[round((v - low) / span * (len(_SPARKS) - 1)) if span else 0] for v in means)


def _traffic(run: Run) -> Text:
    up, down = (
        (sum(sum(of.values()) for of in sizes) for sizes in zip(*((v.up, v.down) for v in run.visits), strict=True))
        if run.visits
        else (0, 0)
    )
    return Text(f"upload {size(up)}, download {size(down)}\n{level_sentence(level_of_run(run))}")


def _notes(run: Run, quiet: float) -> list[Text]:
    """What needs attention: the error of the run, the last failed visits, no change for a long time."""
    notes = [Text(run.error, "red")] if run.error else []
    failed = [(one.index, site, why) for one in run.rounds for site, why in one.refused.items()]
    notes += [Text(f"round {index}: visit of {site} failed: {why}", "yellow") for index, site, why in failed[-3:]]
    if silent(run, quiet):
        advice = "if its process has ended, --resume true continues from the last complete round"
        notes.append(Text(f"no change for {_clock(quiet)}; {advice}", "yellow"))
    return notes


def _sites(run: Run) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("site", overflow="fold", min_width=12)
    for title in ("images", "round", "loss", "kNN", "seconds", "upload", "download", "failed"):
        table.add_column(title, justify="right", no_wrap=True)
    for site in run.sites:
        table.add_row(*(Text(cell) for cell in _row(run, site)))
    return table


def _row(run: Run, site: str) -> tuple[str, ...]:
    visits = [(one.index, one.visits[site]) for one in run.rounds if site in one.visits]
    trained = [(index, visit) for index, visit in visits if visit.examples]
    index, last = trained[-1] if trained else (None, None)
    failed = sum(site in one.refused for one in run.rounds)
    return (
        site,
        f"{last.examples:,}" if last else "-",
        "-" if index is None else str(index),
        _decimal(last.metrics.get("loss") if last else None),
        _decimal(_last_score(run.rounds, site)),
        _decimal(last.seconds if last else None, 1),
        size(sum(sum(visit.up.values()) for _, visit in visits)),
        size(sum(sum(visit.down.values()) for _, visit in visits)),
        str(failed) if failed else "-",
    )


def _last_score(rounds: Sequence[RoundSummary], site: str) -> float | None:
    scores = (one.evaluation.get(site, {}).get("knn") for one in reversed(rounds))
    return next((score for score in scores if score is not None), None)


def _mean(weighted: Iterable[tuple[float | None, float]]) -> float | None:
    """Weighted by images, as in the progress bar of the run."""
    known = [(value, weight) for value, weight in weighted if value is not None]
    mass = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / mass if mass else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _decimal(value: float | None, places: int = 3) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
