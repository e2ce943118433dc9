"""Reads the images of all sites of a simulation, with a progress bar."""

from __future__ import annotations

import sys

from fedcore.data.cohort import Cohort
from fedcore.data.source import Data
from fedcore.runs.progress import Counting

_NOTES = 8
"""Notes on the data that the terminal shows."""


def read_images(data: Data) -> Cohort:
    """The images of a recipe, with a bar while they are read; what was left out and notes go to stderr."""
    with Counting("reading images") as progress:
        cohort = data.load(progress)
    if cohort.skipped:
        print(
            f"{len(cohort.skipped)} image{'s' * (len(cohort.skipped) > 1)} left out; run.json and the report say which",
            file=sys.stderr,
        )
    for note in cohort.warnings[:_NOTES]:
        print(f"note: {note}", file=sys.stderr)
    if (more := len(cohort.warnings) - _NOTES) > 0:
        print(f"note: {more} more in run.json and the report", file=sys.stderr)
    return cohort
