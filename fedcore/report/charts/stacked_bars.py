"""A chart with one stacked bar per round: bytes by kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedcore.report.charts.axes import BOTTOM, LEFT, RIGHT, TOP, LinearScale, Tick, ticks
from fedcore.report.units import size_unit

_BARS = 48


@dataclass(frozen=True)
class Block:
    kind: str
    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class StackChart:
    title: str
    caption: str
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    blocks: tuple[Block, ...]


def stack_chart(title: str, caption: str, rounds: Sequence[tuple[int, Mapping[str, int]]], *, top: float) -> StackChart:
    """A bar per round, stacked by kind, of (round, kind -> bytes); `top` bytes is the height that charts share.

    With more than 48 rounds a bar is the mean of several neighbours.
    """
    unit, name = size_unit(top)
    marks = ticks(0.0, top / unit)
    y = LinearScale(0.0, marks[-1] * unit, BOTTOM, TOP)
    groups = _grouped(rounds)
    pitch = (RIGHT - LEFT) / max(len(groups), 8)
    blocks = []
    for column, group in enumerate(groups):
        below = 0.0
        first, last = group[0][0], group[-1][0]
        when = f"round {first}" if first == last else f"rounds {first} to {last}, mean"
        for kind in dict.fromkeys(kind for _, sizes in group for kind in sizes):
            mean = sum(sizes.get(kind, 0) for _, sizes in group) / len(group)
            left, height = LEFT + pitch * (column + 0.12), round(y(below) - y(below + mean), 1)
            label = f"{when}: {kind} {mean / unit:.3g} {name}"
            blocks.append(Block(kind, round(left, 1), y(below + mean), round(0.76 * pitch, 1), height, label))
            below += mean
    step = math.ceil(len(groups) / 6)
    xticks = [Tick(round(LEFT + pitch * (at + 0.5), 1), str(groups[at][0][0])) for at in range(0, len(groups), step)]
    yticks = [Tick(y(mark * unit), f"{mark:.4g}" if mark else f"0 {name}") for mark in marks]
    return StackChart(title, caption, tuple(xticks), tuple(yticks), tuple(blocks))


def _grouped(
    rounds: Sequence[tuple[int, Mapping[str, int]]],
) -> list[Sequence[tuple[int, Mapping[str, int]]]]:
    step = math.ceil(len(rounds) / _BARS)
    return [rounds[at : at + step] for at in range(0, len(rounds), step)]
