"""What server and sites agree on before the first round, from what the sites say of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedcore.errors import InputErrors
from fedcore.messages.agreement import Agreement, Facts

SAME_MINOR = ("fedpretrain", "torch")
"""Packages of which all sites need the same minor version: else one recipe is two methods, or gives other bits."""


def agree(facts: Mapping[str, Facts], classes: Sequence[str] = ()) -> Agreement:
    """Classes are those of all sites, sorted, or `classes`; channels the most that any site has.

    Raises:
        InputErrors: Sites do not fit one another; each that differs is named.
    """
    _require_same("dimensions", {site: f"{len(f.size)}D images" for site, f in facts.items()})
    sizes = {site: f"images of {' x '.join(map(str, f.size))} pixels" for site, f in facts.items()}
    _require_same("size", sizes, "Set data.size to one size for all.")
    require_same_versions(facts)
    found = {name for of in facts.values() for name in of.classes}
    if (
        classes
        and (unknown := {site: sorted({*f.classes} - {*classes}) for site, f in facts.items()})
        and any(unknown.values())
    ):
        raise InputErrors(
            "classes",
            [f"{site} has {', '.join(names)}" for site, names in unknown.items() if names],
            f"The recipe names {', '.join(classes)}.",
        )
    first = next(iter(facts.values()))
    return Agreement(
        tuple(classes) or tuple(sorted(found)), max(f.channels for f in facts.values()), first.size, tuple(facts),
        max(f.mask_classes for f in facts.values()),
    )  # fmt: skip


def require_same_versions(facts: Mapping[str, Facts]) -> None:
    """Raises InputErrors where sites have installed other minor versions of what the numbers depend on."""
    for package in SAME_MINOR:
        versions = {site: f"{package} {_minor(f, package)}" for site, f in facts.items()}
        _require_same("versions", versions, f"Install the same minor version of {package} everywhere.")


def changed(now: Facts, before: Facts) -> str | None:
    """Why a site cannot continue a run, if its images are others than when it began."""
    if now.data != before.data:
        return "its images have changed since the run was started; restore them, or start a new run"
    if replace(now, versions=()) != replace(before, versions=()):
        return "it reports its images differently (policy.counts, say) than when the run was started"
    return None


def misfit(facts: Facts, agreement: Agreement) -> str | None:
    """Why a site cannot join a run that has begun."""
    if facts.size != agreement.size:
        return f"its images have {facts.size} pixels, the run has {agreement.size}"
    if facts.channels > agreement.channels:
        return f"its images have {facts.channels} channels, the run has {agreement.channels}"
    if unknown := sorted({*facts.classes} - {*agreement.classes}):
        return f"{len(unknown)} of its classes are not among the run's {len(agreement.classes)}"
    if facts.mask_classes > agreement.mask_classes:
        return f"its masks have {facts.mask_classes} classes, the run has {agreement.mask_classes}"
    return None


def _minor(facts: Facts, package: str) -> str:
    found = next((v for v in facts.versions if v.partition(" ")[0] == package), f"{package} unknown")
    return ".".join(found.partition(" ")[2].split(".")[:2])


def _require_same(what: str, values: Mapping[str, str], advice: str = "") -> None:
    if len(set(values.values())) > 1:
        raise InputErrors(f"sites differ in {what}", [f"{site} has {value}" for site, value in values.items()], advice)
