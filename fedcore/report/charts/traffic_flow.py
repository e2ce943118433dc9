"""Sankey diagram of an average round: bytes between the sites and the server.

The width of a band follows its bytes, its colour is the privacy level. Numbers in, positions in an SVG 420 units wide
out, as in `axes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedcore.report.read.levels import LEVELS, highest_level
from fedcore.report.read.run import Run, VisitSummary
from fedcore.report.sections.traffic import directions, kinds
from fedcore.report.units import size

FROM, TO = 112.0, 292.0  # x of the sites and of the server
_TOP, _FOOT, _ROW = 30.0, 12.0, 38.0  # a row has two lines of text
_WIDTH = 150.0  # of all bands together, in the direction with more bytes
_LEAST = 1.2  # what reveals most is often smallest: a thinner band would not be visible
_ROWS = 12

Sizes = Mapping[str, Mapping[str, float]]
"""Site -> kind -> bytes of an average round."""


@dataclass(frozen=True)
class FlowBand:
    kind: str
    reveals: str
    path: str
    label: str


@dataclass(frozen=True)
class FlowSite:
    """One row on the left: a site, or all remaining ones, with its bytes and its bands."""

    name: str
    y: float
    size: str
    bands: tuple[FlowBand, ...]


@dataclass(frozen=True)
class FlowTotal:
    """One line at the server: a kind's bytes over all sites."""

    kind: str
    reveals: str
    y: float
    size: str


@dataclass(frozen=True)
class TrafficFlow:
    title: str
    upwards: bool
    height: float
    server: tuple[float, float]
    """Top and height of the server's bar."""
    sites: tuple[FlowSite, ...]
    totals: tuple[FlowTotal, ...]
    total: str


def traffic_flows(run: Run) -> tuple[TrafficFlow, ...]:
    """Up and down on one scale; empty where nothing was sent."""
    up, down = (_average(run, direction) for direction in (lambda visit: visit.up, lambda visit: visit.down))
    largest = max(_sum(up), _sum(down))
    if largest <= 0:
        return ()
    shown = _largest(up, down)
    scale = _WIDTH / largest
    levels = {kind: level(run, kind) for kind in kinds(run)}
    sizes = {direction: _gathered(of, shown) for direction, of in (("up", up), ("down", down))}
    widths = {direction: _widths(of, scale) for direction, of in sizes.items()}
    # Both directions have the same rows, so that a site is at one height in both.
    rows = [max(_ROW, *(sum(of[site].values()) + 10 for of in widths.values())) for site in sizes["up"]]
    return tuple(_flow(way, sizes[way], widths[way], levels, rows) for way in directions(run))


def level(run: Run, kind: str) -> str:
    """The privacy level of a kind of bytes; downloads have that of the uploads that they are made from."""
    if kind == "weights":
        return highest_level(["WEIGHTS", *run.buffers.values()])
    if kind == "metrics":  # without metrics: the number of images and the seconds of each answer
        sent = any(visit.metrics for visit in run.visits)
        return "STATISTICS" if sent or any(any(one.evaluation.values()) for one in run.rounds) else "WEIGHTS"
    return highest_level([v.reveals for v in run.visits if v.up.get(kind)] or [v.reveals for v in run.visits])


def _average(run: Run, direction: Callable[[VisitSummary], Mapping[str, int]]) -> dict[str, dict[str, float]]:
    sizes: dict[str, dict[str, float]] = {}
    for one in run.rounds:
        for site, visit in one.visits.items():
            into = sizes.setdefault(site, {})
            for kind, sent in direction(visit).items():
                into[kind] = into.get(kind, 0.0) + sent / len(run.rounds)
    return sizes


def _sum(sizes: Sizes) -> float:
    return float(sum(sum(of.values()) for of in sizes.values()))


def _largest(up: Sizes, down: Sizes) -> list[str]:
    """The sites with a row of their own, in the order of the run."""
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


def _flow(way: str, sizes: Sizes, widths: Sizes, levels: Mapping[str, str], rows: Sequence[float]) -> TrafficFlow:
    bar = max(_sum(widths), 2.0)
    top = at_server = _TOP + (sum(rows) - bar) / 2
    sites, at_row = [], _TOP
    for (site, of), row in zip(widths.items(), rows, strict=True):
        middle = at_row + row / 2
        y, bands = middle - sum(of.values()) / 2, []
        for kind, width in of.items():
            label = f"{site}, {way}: {kind} {size(sizes[site][kind])} a round"
            bands.append(FlowBand(kind, levels[kind], _band(y, at_server, width), label))
            y, at_server = y + width, at_server + width
        sites.append(FlowSite(site, round(middle, 1), size(sum(sizes[site].values())), tuple(bands)))
        at_row += row
    return TrafficFlow(
        title="Upload: sites to server" if way == "up" else "Download: server to sites",
        upwards=way == "up",
        height=round(at_row + _FOOT, 1),
        server=(round(top, 1), round(bar, 1)),
        sites=tuple(sites),
        totals=_totals(sizes, levels, _TOP + sum(rows) / 2),
        total=size(_sum(sizes)),
    )


def _totals(sizes: Sizes, levels: Mapping[str, str], middle: float) -> tuple[FlowTotal, ...]:
    by_kind = {kind: sum(of.get(kind, 0.0) for of in sizes.values()) for kind in levels}
    sent = {kind: found for kind, found in by_kind.items() if found}
    first = middle - (len(sent) - 1) * _ROW / 2
    return tuple(
        FlowTotal(kind, levels[kind], round(first + at * _ROW, 1), size(found))
        for at, (kind, found) in enumerate(sent.items())
    )


def _band(left: float, right: float, width: float) -> str:
    """An SVG path from `left` at the sites to `right` at the server; both are the y of its upper edge."""
    bend = (FROM + TO) / 2
    a, b, c, d = (f"{y:.1f}" for y in (left, right, right + width, left + width))
    return f"M{FROM:g},{a}C{bend:g},{a} {bend:g},{b} {TO:g},{b}V{c}C{bend:g},{c} {bend:g},{d} {FROM:g},{d}Z"


def levels_sent(run: Run) -> tuple[tuple[str, bool], ...]:
    """Every privacy level, with whether anything of it was sent."""
    sent = {level(run, kind) for kind in kinds(run) if any(v.up.get(kind) or v.down.get(kind) for v in run.visits)}
    return tuple((name, name in sent) for name in (*LEVELS, *sorted(sent - set(LEVELS) - {""})))
