"""Classifiers and segmenters of finished runs as ONNX, with outputs equal to those of the run's model."""

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
    """Writes the model of a finished run, for any number of images of the training size; returns how to use it.

    For a segmenter that was trained on patches the file holds the network for one patch; the user slides it over larger
    images.

    Raises:
        InputError: onnx or onnxscript is not installed, or torch cannot convert the model.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError(f"ONNX needs {' and '.join(missing)}: pip install fedpretrain[onnx]")
    about, models = run.about(), classifiers_of(run)
    if site not in models:
        raise InputError(f"each site has its own model; name a site with --site: {', '.join(filter(None, models))}")
    module, size = models[site], tuple(about["size"])
    if (patch := getattr(module, "patch_size", None)) is not None:
        module, size = module.network, patch  # type: ignore[assignment]
    images = torch.zeros(2, about["channels"], *size)
    with torch.no_grad(), warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")
        module(images)  # tensors that a network caches for a size (positions) must exist before tracing
        try:
            program = torch.onnx.export(
                module, (images,), dynamo=True, input_names=[INPUT], output_names=[OUTPUT],
                dynamic_shapes=({0: "n"},), verbose=False,
            )  # fmt: skip
        except Exception as e:
            raise InputError(
                f"torch cannot convert {type(module).__name__} to ONNX ({type(e).__name__}); use fedpretrain predict"
            ) from e
    assert program is not None
    with replacing(file) as part:
        program.save(str(part))
    return usage(run, file, size)


def usage(run: RunFolder, file: Path, size: tuple[int, ...]) -> str:
    about = run.about()
    shape = ", ".join(["n", str(about["channels"]), *map(str, size)])
    outputs = (
        f"(n, {about['mask_classes']}, {', '.join(map(str, size))}), one channel for each class number of the masks"
        if about["command"] == "segment"
        else f"(n, {len(about['classes'])}), one column for each of the classes {', '.join(about['classes'])}"
    )
    return f"""import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(logits,) = session.run(None, {{"{INPUT}": images}})

- images: float32, ({shape}) in [-1, 1], intensities scaled by {_scaling(run)}
- logits: {outputs}"""


def _scaling(run: RunFolder) -> str:
    """The class of `fedcore.data.preprocess.scaling` that scaled the run's images, with its values."""
    scaling = (read_yaml(run.path / "recipe.yaml").get("data") or {}).get("scaling")
    if not scaling:
        return f"fedcore.data.preprocess.scaling.{Percentiles()}, for each image by itself"
    values = ", ".join(f"{key}={value}" for key, value in (scaling.get("init_args") or {}).items())
    return f"{scaling['class_path']}({values})"


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's log of its steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
