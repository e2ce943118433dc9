"""Classifiers and segmenters of finished runs as ONNX, whose answers are those of the run's own model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from fedcore.data.preprocess.scaling import Percentiles
from fedcore.errors import InputError
from fedcore.files.reading import read_yaml
from fedcore.files.writing import replacing
from fedcore.runs.classifiers import classifiers_of
from fedcore.runs.folder import RunFolder

INPUT, OUTPUT = "images", "logits"
TASKS = {"finetune": "classifier", "segment": "segmenter"}


def export_onnx(run: RunFolder, file: Path, site: str | None = None) -> str:
    """Writes the model of a finished run, for any number of images of the size in training; returns how to use it.

    Where a segmenter learned from patches the file holds the network of one patch: sliding it over larger images is
    left to who uses it.

    Raises:
        InputError: onnx and onnxscript are not installed, or torch cannot say the model in ONNX.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError(f"ONNX needs {' and '.join(missing)}: pip install fedpretrain[onnx]")
    about, known = run.about(), classifiers_of(run)
    if site not in known:
        raise InputError(f"sites have a model each, so name one with --site: {', '.join(filter(None, known))}")
    module, size = known[site], tuple(about["size"])
    if (patch := getattr(module, "patch_size", None)) is not None:
        module, size = module.network, patch  # type: ignore[assignment]
    images = torch.zeros(2, about["channels"], *size)
    with torch.no_grad(), warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")
        module(images)  # what a network makes once for a size, as positions, must be there before it is traced
        try:
            program = torch.onnx.export(
                module, (images,), dynamo=True, input_names=[INPUT], output_names=[OUTPUT],
                dynamic_shapes=({0: "n"},), verbose=False,
            )  # fmt: skip
        except Exception as e:
            raise InputError(
                f"torch cannot say {type(module).__name__} in ONNX ({type(e).__name__}); use it through predict"
            ) from e
    assert program is not None
    with replacing(file) as part:
        program.save(str(part))
    return usage(run, file, size)


def usage(run: RunFolder, file: Path, size: tuple[int, ...]) -> str:
    about = run.about()
    shape = ", ".join(["n", str(about["channels"]), *map(str, size)])
    meaning = (
        f"class numbers of masks, 0 to {about['mask_classes'] - 1}" if about["command"] == "segment"
        else f"the classes {', '.join(about['classes'])}"
    )  # fmt: skip
    return f"""import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(logits,) = session.run(None, {{"{INPUT}": images}})

- images: float32, ({shape}) in [-1, 1], intensities scaled by {_scaling(run)}
- logits: one along the second axis for each of {meaning}"""


def _scaling(run: RunFolder) -> str:
    """The class of `fedcore.data.preprocess.scaling` that the run's images went through, with its values."""
    scaling = (read_yaml(run.path / "recipe.yaml").get("data") or {}).get("scaling")
    if not scaling:
        return f"fedcore.data.preprocess.scaling.{Percentiles()}, each image by itself"
    values = ", ".join(f"{key}={value}" for key, value in (scaling.get("init_args") or {}).items())
    return f"{scaling['class_path']}({values})"


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter logs its steps; nobody asked."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
