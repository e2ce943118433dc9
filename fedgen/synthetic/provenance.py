"""What drew a set, and from which images it learned: by digests, so that an audit asks the hospitals concerned."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fedcore.data.dataset import Cohort
from fedcore.data.describe import fingerprint
from fedcore.errors import InputError
from fedcore.runs.folder import RunFolder
from fedgen.generator_store import GENERATOR, TENSORS
from fedgen.oneshot.ensemble import TrainedClassifiers
from fedgen.oneshot.invert import digests
from fedgen.oneshot.joint_generator import folders_of


def generators(run: Path, sites: Collection[str]) -> dict[str, Any]:
    """What draws for these sites: `generator` is one digest, of the weights or of all the sites' digests in
    `generators`."""
    own = {site: _digest(folder / TENSORS) for site, folder in folders_of(run).items() if site in sites}
    if not own:
        return {"generator": _digest(run / GENERATOR / TENSORS)}
    return {"generator": hashlib.sha256("".join(own.values()).encode()).hexdigest(), "generators": own}


def trained_on(run: Path) -> dict[str, Any]:
    """Of the run's generator, or that of a site's folder in the run: `data`, the fingerprint of the images that it was
    trained on, and `label_fraction`, the part of their labels."""
    places = [RunFolder(place) for place in (run, run.resolve().parent.parent)]
    about = next((told for place in places if place.about() and (told := place.finished()).get("data")), {})
    return {key: about.get(key) for key in ("data", "label_fraction")}


def require_origin(run: Path, folder: Path, settings: dict[str, Any], cohort: Cohort) -> None:
    """Raises InputError where the set of `folder` was drawn by another run, or `cohort` is not what that one saw."""
    if not _drew(run, settings):
        raise InputError(
            f"{folder} was not drawn by what {run} holds: its set.json names {_short(settings.get('generator'))}; give "
            "the run that drew it, since other hospitals cannot find copies of their patients in it"
        )
    saw, now = RunFolder(run).about().get("data"), fingerprint(cohort)
    if saw != settings.get("data"):
        raise InputError(
            f"{folder} was drawn by a generator that saw other images than run.json of {run} names; draw the set anew"
        )
    if now != saw:
        raise InputError(
            f"these are not the images that {run} was trained on (fingerprint {_short(now)}, run.json has "
            f"{_short(saw)}): copies would not be found; give the same images, labels and splits, at a new place by "
            "--data.manifest"
        )


def _drew(run: Path, settings: dict[str, Any]) -> bool:
    if "classifiers" in settings:
        made = digests(TrainedClassifiers.open(run).networks)
        return all(settings.get(key) == value for key, value in made.items())
    if "generators" in settings:
        made = generators(run, settings["generators"])
        return all(settings.get(key) == value for key, value in made.items())
    files = [run / GENERATOR / TENSORS, *(folder / TENSORS for folder in folders_of(run).values())]
    return settings.get("generator") in {_digest(file) for file in files if file.exists()}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _short(digest: str | None) -> str:
    return (digest or "nothing")[:12]
