"""`fedpretrain predict RUN IMAGES OUT`: predictions of a fine-tuned model for images without a manifest."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from fedcore.config.arguments import call
from fedcore.config.recipe import read_recipe
from fedcore.data.findings import SEPARATOR
from fedcore.data.io.dicom.image import is_dicom
from fedcore.data.io.error import ImageError
from fedcore.data.io.readers import read_image
from fedcore.data.preprocess.decode import Decoding
from fedcore.data.source import Data
from fedcore.errors import InputError, InputErrors
from fedcore.files.writing import append, require_writable
from fedcore.runs.classifiers import classifiers_of
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import Counting
from fedtune.classification.finetuning import finetune
from fedtune.evaluation.native_grid import native_mask, predict_logits
from fedtune.prediction.mask_files import write_mask
from fedtune.prediction.mask_names import mask_names, printable
from fedtune.segmentation.training import segment

TABLE = "predictions.csv"
PREDICTED = "predicted_class"


def predict(run: Path, images: Path, out: Path, site: str | None = None, on_error: str = "stop") -> Path:
    """Predict the classes or masks of images with the model of a finished run.

    Args:
        run: a finished finetune or segment run.
        images: an image file, a DICOM series' folder, or a folder of either.
        out: new folder for predictions.csv and, from a segmenter, masks with each image's own geometry. If the run cuts
            volumes into slices, a classifier's table has one row per slice, numbered from 0 along `data.slices`, and a
            mask is assembled from its slices. Constant slices (one single value) have no row and are background. Each
            image is added to the table at once, so an interrupted command keeps earlier predictions.
        site: site whose model is used, if sites have parts of the model of their own.
        on_error: unreadable images are not in the table; the command then prints them and ends with an error (stop), or
            without one (skip).
    """
    out = Path(out)
    require_writable(out)
    if out.exists():
        raise InputError(f"{out} exists already; name another folder")
    if on_error not in ("stop", "skip"):
        raise InputError(f"on_error must be stop or skip, got {on_error}")
    model = TrainedModel.load(RunFolder(Path(run)), site)
    files = _files(Path(images), model.decoding.dims)
    errors = _predict_all(model, files, Path(images), out)
    if errors and (on_error == "stop" or len(errors) == len(files)):
        kept = len(files) - len(errors)
        raise InputErrors(
            "images", errors, f"{out / TABLE} has the {kept} others; --on_error skip accepts that." * bool(kept)
        )
    return out / TABLE


def _predict_all(model: TrainedModel, files: Sequence[Path], images: Path, out: Path) -> list[str]:
    """Writes the table, image by image, and returns an error for each image that cannot be read."""
    errors, heading = [], [["image", *model.columns]]
    with Counting("predicting") as counting:
        for done, (file, mask_name) in enumerate(zip(files, mask_names(files), strict=True), 1):
            name = printable(str(file.relative_to(images)) if file != images else file.name)
            try:
                rows = [[name, *row] for row in model.rows(file, out, mask_name)]
                append(out / TABLE, _csv([*heading, *rows]))
                heading = []
            except ImageError as e:
                errors.append(f"{printable(file.name)}: {e}")
            counting(done, len(files))
    return errors


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def command(arguments: Sequence[str]) -> None:
    print(call(predict, "predict", arguments))


@dataclass(frozen=True)
class TrainedModel:
    """The network of a finished run, and the preprocessing of its images."""

    network: nn.Module
    decoding: Decoding
    classes: tuple[str, ...]
    mask_classes: int
    """Classes in the masks, background included; 0 for a classifier."""
    multilabel: bool
    """Whether an image may have several of the classes."""

    @classmethod
    def load(cls, run: RunFolder, site: str | None) -> TrainedModel:
        """Raises InputError where there is no finished run, or no model of this site."""
        about = run.about()
        if about.get("command") not in ("finetune", "segment") or about.get("status") != "finished":
            raise InputError(f"predict takes a finished finetune or segment run, and {run.path} holds none")
        run.finished()
        networks = classifiers_of(run)
        if site not in networks:
            sites = [name for name in networks if name]
            raise InputError(
                f"each site has its own model; choose one with --site {sites[0]} ({', '.join(sites)})"
                if sites
                else "all sites share one model; remove --site"
            )
        stage: Any = segment if about["command"] == "segment" else finetune
        recipe = read_recipe(stage, "predict", [str(run.path / "recipe.yaml")]).build()
        data: Data = recipe["data"]
        decoding = data.decoding(tuple(about["size"]), about["channels"])
        return cls(networks[site], decoding, tuple(about.get("classes") or ()), about.get("mask_classes", 0),
                   about.get("multilabel", False))  # fmt: skip

    @property
    def columns(self) -> list[str]:
        if self.mask_classes:
            unit = "pixels" if self.decoding.dims == 2 else "voxels"
            return ["mask", *(f"{unit}_{number}" for number in range(1, self.mask_classes))]
        classes = [f"class {name}" if name in ("image", "slice", PREDICTED) else name for name in self.classes]
        return [*(["slice"] if self.decoding.slices is not None else []), PREDICTED, *classes]

    def rows(self, file: Path, out: Path, mask_name: str) -> list[list[str]]:
        """The cells of one image, or of each of its slices; writes its mask. Raises ImageError."""
        raw, layout = read_image(file, nan=self.decoding.nan), self.decoding.layout(file)
        predictions = predict_logits(self.network, self.decoding, raw, layout)
        if self.mask_classes:
            mask = native_mask(predictions, self.decoding, raw.shape[1:], layout)
            path = write_mask(out / "masks", file, mask, mask_name)
            counts = np.bincount(mask.ravel(), minlength=self.mask_classes)[1:]
            return [[str(path.relative_to(out)), *map(str, counts.tolist())]]
        if self.decoding.slices is None:
            return [self._class_cells(logits) for _, logits in predictions]
        return [[str(index), *self._class_cells(logits)] for index, logits in predictions]

    def _class_cells(self, logits: Float[Tensor, " k"]) -> list[str]:
        probabilities = logits.sigmoid() if self.multilabel else logits.softmax(0)
        predicted = (probabilities > 0.5).nonzero().flatten() if self.multilabel else logits.argmax(0, keepdim=True)
        names = SEPARATOR.join(self.classes[k] for k in predicted)
        return [names, *(f"{p:.4f}" for p in probabilities.tolist())]


def _files(images: Path, dims: int) -> list[Path]:
    """The file itself, the folder of a series itself, or the content of a folder.

    For a model of volumes a folder of DICOM files is one series; for a model of pictures each file is an image.
    """
    if not images.exists():
        raise InputError(f"{images} does not exist; give an image or a folder of images")
    if images.is_file():
        return [images]
    inside = sorted(path for path in images.iterdir() if not path.name.startswith("."))
    if dims == 3 and inside and all(path.is_file() and is_dicom(path) for path in inside):
        return [images]
    files = [path for path in inside if path.is_dir() or path.suffix.lower() not in (".csv", ".txt", ".md", ".json")]
    if not files:
        raise InputError(f"{images} holds no images")
    return files
