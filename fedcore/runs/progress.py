"""Progress of a run: a bar in a terminal; elsewhere, in a log say, a line for each round."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from fedcore.runs.communication import RoundRecord

_step = ContextVar("step", default="")


@contextmanager
def bars_of(step: str) -> Iterator[None]:
    """Bars within say what they belong to."""
    token = _step.set(f"{step}: ")
    try:
        yield
    finally:
        _step.reset(token)


def within_a_step() -> bool:
    """Whether this is a step of something larger, such as a pipeline."""
    return bool(_step.get())


def shown() -> bool:
    """Whether bars are drawn."""
    return sys.stderr.isatty()


class Progress:
    """One bar of rounds, with the site being visited and the last round's means; without a terminal a line a round."""

    def __init__(self, rounds: int, done: int = 0, title: str = "rounds"):
        console = Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("[dim]left"), TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"),
            console=console, disable=not shown(), transient=True,
        )  # fmt: skip
        self.task = self.bars.add_task(_step.get() + title, total=rounds, completed=done, note="")
        self.rounds, self.last = rounds, ""

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def visiting(self, site: str) -> None:
        self.bars.update(self.task, note=f"{self.last}  at {site}")

    def finished(self, record: RoundRecord) -> None:
        means = {"loss": record.mean("loss")} | _evaluation_means(record)
        self.last = "  ".join(f"{name} {value:.3f}" for name, value in means.items() if value is not None)
        self.bars.update(self.task, advance=1, note=self.last)
        for site, reason in record.refused.items():
            self.say(f"round {record.round}: {site} left out: {reason}", "yellow")
        if not shown():
            trained = len(record.sites) - len(record.refused.keys() & record.sites.keys())
            of_all = f"{trained} of " if record.refused else ""
            parts = [f"{of_all}{len(record.sites)} sites", self.last, f"{record.seconds:.1f} s"]
            self.say(f"{_step.get()}{record.round + 1} of {self.rounds} rounds: {'  '.join(filter(None, parts))}")

    def say(self, line: str, style: str = "") -> None:
        if shown():
            self.bars.console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
            return
        with suppress(OSError):  # nobody may be reading any more: that is no reason to end a training
            print(line, file=sys.stderr, flush=True)


class Counting:
    """A bar for something that is counted; called with (done, all)."""

    def __init__(self, title: str, done: int = 0) -> None:
        self.bars = Bars(
            TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("[dim]left"), TimeRemainingColumn(),
            console=Console(stderr=True), disable=not shown(), transient=True,
        )  # fmt: skip
        self.task = self.bars.add_task(_step.get() + title, total=None, completed=done)

    def __enter__(self) -> Counting:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, done: int, total: int) -> None:
        self.bars.update(self.task, completed=done, total=total)


def _evaluation_means(record: RoundRecord) -> dict[str, float | None]:
    sent = [(v["knn"], v.get("images", 1.0)) for v in record.evaluation.values() if "knn" in v]
    mass = sum(n for _, n in sent)
    return {"knn": sum(v * n for v, n in sent) / mass if mass else None}
