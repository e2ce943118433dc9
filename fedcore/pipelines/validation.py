"""What is wrong with a road, told before its first step has trained for hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedcore.cli.main import check_command
from fedcore.errors import InputError, InputErrors
from fedcore.files.reading import yaml_of
from fedcore.pipelines.spec import Step, names_in


def check(steps: Sequence[Step], where: str) -> None:
    """All that can be told before the first step runs: words, recipes, manifests, encoders that do not fit.

    Raises:
        InputErrors: What is wrong with any step.
    """
    told: dict[str, list[str]] = {}
    for step in steps:
        for fault in _faults(step, {earlier.name: earlier for earlier in steps}):
            told.setdefault(fault, []).append(step.name)
    if told:
        raise InputErrors(where, [f"{_some(names)}: {fault}" for fault, names in told.items()])


def _faults(step: Step, steps: Mapping[str, Step]) -> Iterator[str]:
    try:
        if step.recipe:
            built = step.recipe.build()
            for path in step.manifests:
                built["data"].read_manifest(path)
        else:
            check_command(step.words[0], list(step.words[1:]))
    except InputError as e:
        yield str(e).replace("\n", "\n  ")
        return
    yield from _other_encoders(step, steps)


def _other_encoders(step: Step, steps: Mapping[str, Step]) -> Iterator[str]:
    """Steps that start from another encoder than they ask for."""
    start = step.recipe.config.get("pretrained") if step.recipe else None
    for name in names_in(start or ""):
        try:
            theirs, own = _encoder(steps[name]), _encoder(step)
        except InputError:
            continue  # told of that step
        if theirs and own and theirs != own:
            yield f"asks for {_apart(own, theirs)}, but starts from {name}, {_apart(theirs, own)}; make them the same"


def _encoder(step: Step) -> dict[str, Any] | None:
    """As the recipe has it, of a classifier or in a segmenter's network."""
    tree = yaml_of(step.recipe.text) if step.recipe else {}
    network = (tree.get("network") or {}).get("init_args") or {}
    found: dict[str, Any] | None = tree.get("encoder") or network.get("encoder")
    return found


def _apart(encoder: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Its class, with the settings that the other has not."""
    settings, others = (of.get("init_args") or {} for of in (encoder, other))
    told = ", ".join(f"{key}={value}" for key, value in settings.items() if (key, value) not in others.items())
    return f"{encoder['class_path'].rpartition('.')[2]}({told})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more"
