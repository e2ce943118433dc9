"""The report of a run: one HTML page made from the run folder alone, readable offline and in print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.words import call


def write_report(run: Path, images: bool = True) -> Path:
    """Write `<run>/report.html` and return its path; an existing report is replaced in one step.

    `images=False` leaves out every pixel and shortens absolute paths to their last part, for a page that may
    travel further than the images may. Raises `InputError` where `run` is not the folder of a run.
    """
    from fedcore.report.read import read_run
    from fedcore.report.render import page, write

    return write(page(read_run(run, private=not images), images=images), run / "report.html")


def report_command(run: Path, images: bool = True) -> None:
    """Write the report of a run folder and print where it is.

    Args:
        run: folder of a run, finished or not.
        images: whether the page shows the sites' images; without them absolute paths are shortened too.
    """
    print(write_report(run, images))


def command(arguments: Sequence[str]) -> None:
    """`fedpretrain report RUN`."""
    call(report_command, "report", arguments)
