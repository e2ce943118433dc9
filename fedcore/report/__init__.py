"""Reports: one HTML page about a run, or one that compares several, from run folders only; readable offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.errors import InputError
from fedcore.files.writing import write_atomically

if TYPE_CHECKING:
    from fedcore.report.read.run import Run

USAGE = """usage: fedpretrain report RUN [RUN ...] [--out page.html] [--images false]
       fedpretrain report RUN/sites/SITE [--out page.html] [--images false]"""


def write_report(run: Path, images: bool = True, out: Path | None = None) -> Path:
    """Writes `<run>/report.html` (or `out`) and returns its path; an existing report is replaced in one step.

    Absolute paths are shortened to their last part.

    Args:
        run: Folder of a run, finished or not.
        images: False: no pixel and nothing about single images, for a page that may go further than the images may.
        out: Another file than report.html.

    Raises:
        InputError: `run` is not the folder of a run, or `out` is a file that is not a report.
    """
    from fedcore.report.read.reader import read_run
    from fedcore.report.render import report_page

    text = report_page(read_run(run, private=True), images=images)
    return _write(text, _free(out, "report") if out else run / "report.html")


def write_comparison(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes a page that compares runs: `comparison.html` next to the first of them, or `out`.

    It holds no pixels and no absolute paths. Raises InputError as `write_report` does.
    """
    from fedcore.report.read.reader import read_run
    from fedcore.report.render import comparison_page

    path = _free(out or runs[0].resolve().parent / "comparison.html", "comparison")
    return _write(comparison_page([read_run(run, private=True) for run in runs]), path)


def write_pipeline_report(runs: Sequence[Run], families: Sequence[str], out: Path) -> Path:
    """Writes a page that compares the runs of a pipeline to `out`; runs of one family are one line in its charts.

    Raises:
        InputError: `out` is a file that is not such a page.
    """
    from fedcore.report.render import comparison_page

    return _write(comparison_page(runs, families), _free(out, "comparison"))


def report_command(runs: Sequence[Path], images: bool = True, out: Path | None = None) -> None:
    """Writes the report of a run or of a site, or one page that compares several runs, and prints its path.

    Args:
        runs: Folders of runs, finished or not, or one site's own folder.
        images: Whether a single run's page shows the sites' images.
        out: File to write; default: report.html in the run, or comparison.html next to the first of several.
    """
    from fedcore.report.read.site import is_site
    from fedcore.report.site_page import write_site_page

    if len(runs) > 1:
        print(write_comparison(runs, out))
    elif is_site(runs[0]):
        print(write_site_page(runs[0], images, _free(out, "site") if out else None))
    else:
        print(write_report(runs[0], images, out))


def command(arguments: Sequence[str]) -> None:
    """`fedpretrain report RUN [RUN ...]`."""
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="fedpretrain report", allow_abbrev=False, exit_on_error=False,
        description="Write an HTML page about a run, or one that compares several runs.",
    )  # fmt: skip
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run, finished or not, or of a site: RUN/sites/SITE"
    )
    parser.add_argument("--images", type=bool, default=True, help="false: a page without images and their features")
    parser.add_argument(
        "--out", metavar="PAGE", help="default: report.html in the run, or comparison.html next to the first of several"
    )
    try:
        found = parser.parse_args(list(arguments))
    except ArgumentError as e:
        raise InputError(f"report: {str(e).strip().splitlines()[-1].strip()}\n{USAGE}") from e
    report_command([Path(run) for run in found.runs], found.images, Path(found.out) if found.out else None)


def _free(path: Path, kind: str) -> Path:
    """`path` if it does not exist or holds a page of this kind; no other file is replaced."""
    mark = f'<meta name="generator" content="fedpretrain {kind}">'
    if path.is_dir() or (path.exists() and mark not in path.read_text(encoding="utf-8", errors="replace")[:2000]):
        raise InputError(f"{path} exists and is not a {kind} page; choose another file with --out")
    return path


def _write(text: str, path: Path) -> Path:
    # JSON and file names may hold lone surrogates.
    write_atomically(path, text.encode("utf-8", errors="replace"))
    return path
