"""`fedpretrain watch RUN`: a run in the terminal while it goes, from its folder alone.

It may run on another machine that sees the folder; it writes nothing and ends with the run.
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
from fedcore.report.read.digest import highest_revelation, level_sentence
from fedcore.report.read.reader import read_run
from fedcore.report.read.run import Run, Turn
from fedcore.report.units import size
from fedcore.tables import terminal

USAGE = """usage: fedpretrain watch RUN [--once]

Rounds, sites, curves and time left of a run, refreshed until it ends; Ctrl-C leaves the run alone.
--once prints them and ends, as does an output that is no terminal."""

ENDED = ("finished", "failed", "stopped")
_COLOURS = {"running": "cyan", "trained": "cyan", "finished": "green", "failed": "red", "stopped": "yellow"}
_SPARKS = "▁▂▃▄▅▆▇█"


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case words if {"-h", "--help"} & {*words}:
            print(USAGE)
        case [run] if not run.startswith("-"):
            follow(Path(run)) if sys.stdout.isatty() else snapshot(Path(run))
        case [run, "--once"] | ["--once", run] if not run.startswith("-"):
            snapshot(Path(run))
        case _:
            raise InputError(f"watch takes the folder of a run\n{USAGE}")
    return 0


def snapshot(folder: Path) -> None:
    """Prints how the run stands."""
    terminal().print(picture(read_run(folder), quiet_for(folder)))


def follow(folder: Path, pause: float = 1.0) -> None:
    """Shows the run until it has ended or Ctrl-C is pressed; `pause` is the seconds between two looks."""
    run, seen = read_run(folder), stamp(folder)
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        try:
            while True:
                live.update(picture(run, quiet_for(folder)), refresh=True)
                if run.status in ENDED:
                    return
                time.sleep(pause)
                if (now := stamp(folder)) != seen:
                    run, seen = read_run(folder), now
        except KeyboardInterrupt:
            return  # the run is another process and goes on


def stamp(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Changes when the run's record does, so that a long one is not read anew every second."""
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


def picture(run: Run, quiet: float) -> RenderableType:
    """All that is shown of `run`, whose record has not changed for `quiet` seconds; sites last, as they may be many."""
    parts = [_header(run), _progress(run, quiet), *_curves(run), _traffic(run), *_notes(run, quiet)]
    return Group(*parts, _sites(run))


def _header(run: Run) -> Text:
    return Text.assemble((run.name, "bold"), f"  {run.command}  ", (run.status, _COLOURS.get(run.status, "")))


def _progress(run: Run, quiet: float) -> RenderableType:
    done, planned = len(run.turns), run.planned_rounds
    row = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [ProgressBar(planned, done, width=28)] if planned else []
    cells.append(f"round {done} of {planned}" if planned else f"{done} rounds")
    cells.append(f"{_clock(elapsed(run, quiet))} so far" if run.status not in ENDED else _clock(run.seconds or 0.0))
    if (seconds := left(run, quiet)) is not None:
        cells.append(f"about {_clock(seconds)} left")
    row.add_row(*cells)
    return row


def elapsed(run: Run, quiet: float) -> float:
    """Seconds of training so far; of the round that is under way those since the last one ended."""
    return (run.seconds or 0.0) + (quiet if run.status == "running" and not silent(run, quiet) else 0.0)


def left(run: Run, quiet: float) -> float | None:
    """Seconds that the remaining rounds will take if they are like the last ten; None where nothing tells."""
    pace = [turn.seconds for turn in run.turns[-10:] if turn.seconds is not None]
    if run.status != "running" or not pace or not run.planned_rounds or silent(run, quiet):
        return None
    remaining = run.planned_rounds - len(run.turns)
    return max(0.0, remaining * fmean(pace) - quiet) if remaining > 0 else None


def silent(run: Run, quiet: float) -> bool:
    """Whether a running run has been quiet for so long that its process may be gone."""
    longest = max((turn.seconds or 0.0 for turn in run.turns), default=None)
    return run.status in ("running", "trained") and longest is not None and quiet > max(120.0, 5 * longest)


def _curves(run: Run) -> list[Text]:
    losses = [_mean((v.metrics.get("loss"), v.examples) for v in turn.visits.values()) for turn in run.turns]
    scores = [_mean((s.get("knn"), s.get("images", 1.0)) for s in turn.survey.values()) for turn in run.turns]
    curves = {"loss": _known(losses), "kNN": _known(scores)}
    return [
        Text(f"{name:<5}{values[0]:8.3f} {sparkline(values)} {values[-1]:.3f}")
        for name, values in curves.items()
        if values
    ]


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A bar a value from the least to the greatest; of more than `width` values, the means of neighbours."""
    count = min(width, len(values))
    edges = [at * len(values) // count for at in range(count + 1)]
    means = [fmean(values[a:b]) for a, b in pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    return "".join(_SPARKS[round((v - low) / span * (len(_SPARKS) - 1)) if span else 0] for v in means)


def _traffic(run: Run) -> Text:
    visits = [visit for turn in run.turns for visit in turn.visits.values()]
    up, down = (sum(sum(way.values()) for way in ways) for ways in ([v.up for v in visits], [v.down for v in visits]))
    return Text(f"{size(up)} up, {size(down)} down\n{level_sentence(highest_revelation(run))}")


def _notes(run: Run, quiet: float) -> list[Text]:
    """What asks for attention: how the run broke, the last refusals, a silence."""
    notes = [Text(run.error, "red")] if run.error else []
    refused = [(turn.index, site, why) for turn in run.turns for site, why in turn.refused.items()]
    notes += [Text(f"round {index}: {site} left out: {why}", "yellow") for index, site, why in refused[-3:]]
    if silent(run, quiet):
        told = f"no news for {_clock(quiet)}; if its process has ended, --resume true goes on from the last whole round"
        notes.append(Text(told, "yellow"))
    return notes


def _sites(run: Run) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("site", overflow="fold", min_width=12)
    for title in ("images", "round", "loss", "kNN", "seconds", "up", "down", "refused"):
        table.add_column(title, justify="right", no_wrap=True)
    for site in run.sites:
        table.add_row(*(Text(cell) for cell in _row(run, site)))
    return table


def _row(run: Run, site: str) -> tuple[str, ...]:
    visits = [(turn.index, turn.visits[site]) for turn in run.turns if site in turn.visits]
    trained = [(index, visit) for index, visit in visits if visit.examples]
    index, last = trained[-1] if trained else (None, None)
    refused = sum(site in turn.refused for turn in run.turns)
    return (
        site,
        f"{last.examples:,}" if last else "-",
        "-" if index is None else str(index),
        _decimal(last.metrics.get("loss") if last else None),
        _decimal(_last_score(run.turns, site)),
        _decimal(last.seconds if last else None, 1),
        size(sum(sum(visit.up.values()) for _, visit in visits)),
        size(sum(sum(visit.down.values()) for _, visit in visits)),
        str(refused) if refused else "-",
    )


def _last_score(turns: Sequence[Turn], site: str) -> float | None:
    scores = (turn.survey.get(site, {}).get("knn") for turn in reversed(turns))
    return next((score for score in scores if score is not None), None)


def _mean(weighed: Iterable[tuple[float | None, float]]) -> float | None:
    """Weighted by images, as the progress bar of the run itself shows it."""
    known = [(value, weight) for value, weight in weighed if value is not None]
    mass = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / mass if mass else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _decimal(value: float | None, places: int = 3) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
