"""The pretraining run that a fine-tuning starts from, compared with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.files.reading import parse_yaml
from fedcore.models.encoder_store import encoder_config
from fedcore.runs.record import intact


def start_notes(encoder: Path | None, recipe: str, size: Sequence[int]) -> list[str]:
    """What images of the pretraining were prepared otherwise; the features were learned on those.

    Args:
        encoder: Folder of the encoder; None where nothing was pretrained.
        recipe: The fine-tuning's resolved recipe, YAML.
        size: Pixels of its images along each axis.
    """
    return [
        f"the encoder was pretrained with {key} {before}, this run has {now}; features are usually best on images "
        "prepared as in pretraining"
        for key, before, now in (_differences(encoder, recipe, size) if encoder else ())
        if before != now
    ]


def _differences(encoder: Path, recipe: str, size: Sequence[int]) -> Iterator[tuple[str, Any, Any]]:
    if learned := encoder_config(encoder).get("size"):
        yield "data.size", _sides(learned), _sides(size)
    if path := next((p / "recipe.yaml" for p in encoder.parents if (p / "recipe.yaml").is_file()), None):
        with intact(path):
            before = parse_yaml(path.read_text(encoding="utf-8")).get("data") or {}
        now = (parse_yaml(recipe) or {}).get("data") or {}
        for key in ("scaling", "slices"):
            yield f"data.{key}", _told(before.get(key)), _told(now.get(key))


def _sides(size: Any) -> str:
    return " x ".join(map(str, size))


def _told(node: Any) -> str:
    """A part of a recipe in a line; a class by its name and values."""
    if isinstance(node, Mapping):
        values = ", ".join(f"{key}={value}" for key, value in (node.get("init_args") or {}).items())
        return f"{str(node.get('class_path')).rpartition('.')[2]}({values})"
    return "null" if node is None else str(node)
