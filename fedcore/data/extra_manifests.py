"""Checks of the images that join a run from other manifests: synthetic sets and extra sites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedcore.data.cohort import Cohort
from fedcore.data.synthetic.synthetic_set import audit_status
from fedcore.errors import InputError


def with_audit_status(cohort: Cohort, manifest: Path, allow_unaudited: bool) -> Cohort:
    """`cohort`, the images of `manifest`, with a warning from the audit if they are a synthetic set.

    Raises:
        InputError: They are a synthetic set without a passed privacy check, and `allow_unaudited` is false.
    """
    status = audit_status(manifest, cohort.sites)
    if status.problem and not allow_unaudited:
        raise InputError(
            f"{manifest} is {status.problem}; run: fedpretrain generate audit RUN {manifest.parent}; "
            "data.allow_unaudited true uses the set nevertheless, with a warning in the report"
        )
    warning = f"{status.problem} is used (data.allow_unaudited)" if status.problem else status.warning
    return replace(cohort, warnings=(*cohort.warnings, *([warning] if warning else [])))


def with_class_warning(extra: Cohort, cohort: Cohort) -> Cohort:
    """`extra`, with a warning on classes that `cohort` lacks: they would be trained, and no test image has them."""
    new = sorted({*extra.classes} - {*cohort.classes})
    if not new or not cohort.classes:
        return extra
    warning = (
        f"images of {', '.join(sorted(extra.sites))} have classes that no image of the run's own manifest has: "
        f"{', '.join(new[:10])}; classes are matched by name"
    )
    return replace(extra, warnings=(*extra.warnings, warning))
