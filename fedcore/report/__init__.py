"""The report of a run: one HTML page made from the run folder alone, readable offline and in print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.errors import InputError
from fedcore.files.writing import write_atomically

if TYPE_CHECKING:
    from fedcore.report.read.run import Run

USAGE = "usage: fedpretrain report RUN [RUN ...] [--out page.html] [--images false]"


def write_report(run: Path, images: bool = True, out: Path | None = None) -> Path:
    """Write `<run>/report.html` (or `out`) and return its path; an existing report is replaced in one step.

    `images=False` leaves out every pixel and what galleries say of single images, for a page that may travel further
    than the images may. Absolute paths are shortened to their last part. Raises `InputError` where `run` is not the
    folder of a run, or where `out` is a file that is no report.
    """
    from fedcore.report.read.reader import read_run
    from fedcore.report.render import page

    text = page(read_run(run, private=True), images=images)
    return _write(text, _free(out, "report") if out else run / "report.html")


def write_comparison(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write a page about several runs: `comparison.html` beside the first of them, or `out`.

    It holds no pixels and no absolute paths. Raises `InputError` as `write_report` does.
    """
    from fedcore.report.read.reader import read_run
    from fedcore.report.render import comparison_page

    path = _free(out or runs[0].resolve().parent / "comparison.html", "comparison")
    return _write(comparison_page([read_run(run, private=True) for run in runs]), path)


def write_road(runs: Sequence[Run], families: Sequence[str], out: Path) -> Path:
    """Write a page about the runs of a road to `out`; those of a family are a line in its charts.

    Raises `InputError` where `out` is a file that is no such page.
    """
    from fedcore.report.render import comparison_page

    return _write(comparison_page(runs, families), _free(out, "comparison"))


def report_command(runs: Sequence[Path], images: bool = True, out: Path | None = None) -> None:
    """Write the report of a run folder, or one page that compares several, and print where it is.

    Args:
        runs: folders of runs, finished or not.
        images: whether a single run's page shows the sites' images.
        out: where to write; by default report.html in the run, or comparison.html beside the first of several.
    """
    print(write_report(runs[0], images, out) if len(runs) == 1 else write_comparison(runs, out))


def command(arguments: Sequence[str]) -> None:
    """`fedpretrain report RUN [RUN ...]`."""
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="fedpretrain report", allow_abbrev=False, exit_on_error=False,
        description="Write a page about a run, or one that compares several.",
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, finished or not")
    parser.add_argument("--images", type=bool, default=True, help="false leaves out all that shows single images")
    parser.add_argument(
        "--out", metavar="PAGE", help="default: report.html in the run, or comparison.html beside the first of several"
    )
    try:
        found = parser.parse_args(list(arguments))
    except ArgumentError as e:
        raise InputError(f"report: {str(e).strip().splitlines()[-1].strip()}\n{USAGE}") from e
    report_command([Path(run) for run in found.runs], found.images, Path(found.out) if found.out else None)


def _free(path: Path, kind: str) -> Path:
    """`path`, if it is free or holds a page of this kind; another file, a run's report say, is not replaced."""
    mark = f'<meta name="generator" content="fedpretrain {kind}">'
    if path.is_dir() or (path.exists() and mark not in path.read_text(encoding="utf-8", errors="replace")[:2000]):
        raise InputError(f"{path} exists and is no {kind} page; choose another file with --out")
    return path


def _write(text: str, path: Path) -> Path:
    # JSON and file names may hold lone surrogates.
    write_atomically(path, text.encode("utf-8", errors="replace"))
    return path
