"""Validates a pipeline before its first step runs, so that an error in a late step is found at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedcore.cli.main import check_command
from fedcore.errors import InputError, InputErrors
from fedcore.files.reading import parse_yaml
from fedcore.pipelines.spec import Step, references


def validate(steps: Sequence[Step], where: str) -> None:
    """Checks the arguments, recipes, manifests and encoders of all steps.

    Raises:
        InputErrors: All errors that were found; `where` is named first.
    """
    found: dict[str, list[str]] = {}
    for step in steps:
        for error in _errors(step, {earlier.name: earlier for earlier in steps}):
            found.setdefault(error, []).append(step.name)
    if found:
        raise InputErrors(where, [f"{_some(names)}: {error}" for error, names in found.items()])


def _errors(step: Step, steps: Mapping[str, Step]) -> Iterator[str]:
    try:
        if step.recipe:
            built = step.recipe.build()
            for path in step.manifests:
                built["data"].read_manifest(path)
        else:
            check_command(step.arguments[0], list(step.arguments[1:]))
    except InputError as e:
        yield str(e).replace("\n", "\n  ")
        return
    yield from _encoder_mismatches(step, steps)


def _encoder_mismatches(step: Step, steps: Mapping[str, Step]) -> Iterator[str]:
    """Where a step starts from an encoder with other settings than its own recipe has."""
    start = step.recipe.config.get("pretrained") if step.recipe else None
    for name in references(start or ""):
        try:
            theirs, own = _encoder(steps[name]), _encoder(step)
        except InputError:
            continue  # reported for that step
        if theirs and own and theirs != own:
            yield (
                f"its encoder is {_difference(own, theirs)}, but it starts from {name}, whose encoder is "
                f"{_difference(theirs, own)}; use the same encoder settings"
            )


def _encoder(step: Step) -> dict[str, Any] | None:
    """The encoder in the recipe, of a classifier or in a segmenter's network."""
    tree = parse_yaml(step.recipe.text) if step.recipe else {}
    network = (tree.get("network") or {}).get("init_args") or {}
    found: dict[str, Any] | None = tree.get("encoder") or network.get("encoder")
    return found


def _difference(encoder: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Its class, with the settings that differ from the other's."""
    settings, others = (of.get("init_args") or {} for of in (encoder, other))
    differing = ", ".join(f"{key}={value}" for key, value in settings.items() if (key, value) not in others.items())
    return f"{encoder['class_path'].rpartition('.')[2]}({differing})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"
