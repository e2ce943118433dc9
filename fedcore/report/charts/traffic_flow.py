"""What crosses the borders in an average round, as bands between the sites and the server.

A band's width follows its bytes, its colour says what it reveals. Numbers in, positions in an SVG 420 units
wide out, as in `figures.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedcore.report.read.digest import kinds
from fedcore.report.read.run import LEVELS, Run, Visit, highest
from fedcore.report.units import size

FROM, TO = 112.0, 292.0  # where bands leave the sites' side and reach the server
_TOP, _FOOT, _ROW = 30.0, 12.0, 38.0  # a row has two lines of text
_BROAD = 150.0  # the widths of all bands of the greater direction together
_LEAST = 1.2  # what reveals most is often smallest: a thinner band would not be seen
_ROWS = 12

Sizes = Mapping[str, Mapping[str, float]]
"""Site -> kind -> bytes of an average round."""


@dataclass(frozen=True)
class Band:
    kind: str
    reveals: str
    path: str
    label: str


@dataclass(frozen=True)
class Side:
    """One row on the left: a site or what is left of them, with its bytes and its bands."""

    name: str
    y: float
    size: str
    bands: tuple[Band, ...]


@dataclass(frozen=True)
class Total:
    """One line at the server: a kind's bytes over all sites."""

    kind: str
    reveals: str
    y: float
    size: str


@dataclass(frozen=True)
class Flow:
    title: str
    upwards: bool
    height: float
    server: tuple[float, float]
    """Top and height of the server's bar."""
    sides: tuple[Side, ...]
    totals: tuple[Total, ...]
    total: str


def flows(run: Run) -> tuple[Flow, ...]:
    """Up and down on one scale; empty where nothing was sent."""
    up, down = (_average(run, way) for way in (lambda visit: visit.up, lambda visit: visit.down))
    broadest = max(_sum(up), _sum(down))
    if broadest <= 0:
        return ()
    shown = _largest(up, down)
    scale = _BROAD / broadest
    levels = {kind: level(run, kind) for kind in kinds(run)}
    ways = {way: _gathered(sizes, shown) for way, sizes in (("up", up), ("down", down))}
    widths = {way: _widths(sizes, scale) for way, sizes in ways.items()}
    # Both directions have the same rows, so that a site stands at one height in both.
    rows = [max(_ROW, *(sum(of[site].values()) + 10 for of in widths.values())) for site in ways["up"]]
    return tuple(_flow(way, ways[way], widths[way], levels, rows) for way in ("up", "down"))


def level(run: Run, kind: str) -> str:
    """What a kind of bytes reveals; what comes back down is made of it."""
    if kind == "weights":
        return highest(["WEIGHTS", *run.buffers.values()])
    if kind == "metrics":  # where no metric left, the number of images and the seconds of each answer
        told = any(visit.metrics for turn in run.turns for visit in turn.visits.values())
        return "STATISTICS" if told or any(any(turn.survey.values()) for turn in run.turns) else "WEIGHTS"
    visits = [visit for turn in run.turns for visit in turn.visits.values()]
    return highest([v.reveals for v in visits if v.up.get(kind)] or [v.reveals for v in visits])


def _average(run: Run, way: Callable[[Visit], Mapping[str, int]]) -> dict[str, dict[str, float]]:
    sizes: dict[str, dict[str, float]] = {}
    for turn in run.turns:
        for site, visit in turn.visits.items():
            into = sizes.setdefault(site, {})
            for kind, sent in way(visit).items():
                into[kind] = into.get(kind, 0.0) + sent / len(run.turns)
    return sizes


def _sum(sizes: Sizes) -> float:
    return float(sum(sum(of.values()) for of in sizes.values()))


def _largest(up: Sizes, down: Sizes) -> list[str]:
    """The sites that get a row of their own, in the order of the run."""
    if len(up) <= _ROWS:
        return list(up)
    ranked = sorted(up, key=lambda site: -sum(up[site].values()) - sum(down[site].values()))
    first = set(ranked[: _ROWS - 1])
    return [site for site in up if site in first]


def _gathered(sizes: Sizes, shown: Sequence[str]) -> Sizes:
    rest = [sizes[site] for site in sizes if site not in shown]
    names = dict.fromkeys(kind for of in rest for kind in of)
    others = {f"{len(rest)} others": {kind: sum(of.get(kind, 0.0) for of in rest) for kind in names}} if rest else {}
    return {site: sizes[site] for site in shown} | others


def _widths(sizes: Sizes, scale: float) -> dict[str, dict[str, float]]:
    return {
        site: {kind: max(_LEAST, sent * scale) for kind, sent in of.items() if sent > 0} for site, of in sizes.items()
    }


def _flow(way: str, sizes: Sizes, widths: Sizes, levels: Mapping[str, str], rows: Sequence[float]) -> Flow:
    bar = max(_sum(widths), 2.0)
    top = at_server = _TOP + (sum(rows) - bar) / 2
    sides, at_row = [], _TOP
    for (site, of), row in zip(widths.items(), rows, strict=True):
        middle = at_row + row / 2
        y, bands = middle - sum(of.values()) / 2, []
        for kind, width in of.items():
            label = f"{site}, {way}: {kind} {size(sizes[site][kind])} a round"
            bands.append(Band(kind, levels[kind], _band(y, at_server, width), label))
            y, at_server = y + width, at_server + width
        sides.append(Side(site, round(middle, 1), size(sum(sizes[site].values())), tuple(bands)))
        at_row += row
    return Flow(
        title="Up, from the sites" if way == "up" else "Down, to the sites",
        upwards=way == "up",
        height=round(at_row + _FOOT, 1),
        server=(round(top, 1), round(bar, 1)),
        sides=tuple(sides),
        totals=_totals(sizes, levels, _TOP + sum(rows) / 2),
        total=size(_sum(sizes)),
    )


def _totals(sizes: Sizes, levels: Mapping[str, str], middle: float) -> tuple[Total, ...]:
    by_kind = {kind: sum(of.get(kind, 0.0) for of in sizes.values()) for kind in levels}
    sent = {kind: found for kind, found in by_kind.items() if found}
    first = middle - (len(sent) - 1) * _ROW / 2
    return tuple(
        Total(kind, levels[kind], round(first + at * _ROW, 1), size(found))
        for at, (kind, found) in enumerate(sent.items())
    )


def _band(left: float, right: float, width: float) -> str:
    """A ribbon from `left` at the sites' side to `right` at the server's, both its upper edge."""
    bend = (FROM + TO) / 2
    a, b, c, d = (f"{y:.1f}" for y in (left, right, right + width, left + width))
    return f"M{FROM:g},{a}C{bend:g},{a} {bend:g},{b} {TO:g},{b}V{c}C{bend:g},{c} {bend:g},{d} {FROM:g},{d}Z"


def revealed(run: Run) -> tuple[tuple[str, bool], ...]:
    """Every level with whether anything of it crossed a border."""
    crossed = {level(run, kind) for kind in kinds(run) if any(_any(run, kind))}
    return tuple((name, name in crossed) for name in (*LEVELS, *sorted(crossed - set(LEVELS) - {""})))


def _any(run: Run, kind: str) -> list[int]:
    return [visit.up.get(kind, 0) + visit.down.get(kind, 0) for turn in run.turns for visit in turn.visits.values()]
