"""Compares a fine-tuning run with the pretraining run of its encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.files.reading import parse_yaml
from fedcore.models.encoder_store import encoder_config
from fedcore.runs.record import intact


def preprocessing_notes(encoder: Path | None, recipe: str, size: Sequence[int]) -> list[str]:
    """A note for each setting of image preprocessing that differs from pretraining.

    Args:
        encoder: Folder of the encoder; None without pretraining.
        recipe: The fine-tuning's resolved recipe, YAML.
        size: Pixels of its images along each axis.
    """
    return [
        f"the encoder was pretrained with {key} {before}, this run has {now}; features are usually best on images "
        "prepared as in pretraining"
        for key, before, now in (_settings(encoder, recipe, size) if encoder else ())
        if before != now
    ]


def _settings(encoder: Path, recipe: str, size: Sequence[int]) -> Iterator[tuple[str, Any, Any]]:
    """(key, value in pretraining, value now)."""
    if pretrained_size := encoder_config(encoder).get("size"):
        yield "data.size", _format_size(pretrained_size), _format_size(size)
    if path := next((p / "recipe.yaml" for p in encoder.parents if (p / "recipe.yaml").is_file()), None):
        with intact(path):
            before = parse_yaml(path.read_text(encoding="utf-8")).get("data") or {}
        now = (parse_yaml(recipe) or {}).get("data") or {}
        for key in ("scaling", "slices"):
            yield f"data.{key}", _format_value(before.get(key)), _format_value(now.get(key))


def _format_size(size: Any) -> str:
    return " x ".join(map(str, size))


def _format_value(node: Any) -> str:
    """A value of a recipe on one line; a class by its name and arguments."""
    if isinstance(node, Mapping):
        arguments = ", ".join(f"{key}={value}" for key, value in (node.get("init_args") or {}).items())
        return f"{str(node.get('class_path')).rpartition('.')[2]}({arguments})"
    return "null" if node is None else str(node)
