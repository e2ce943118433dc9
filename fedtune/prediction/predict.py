"""`fedpretrain predict RUN IMAGES OUT`: what a fine-tuned model sees in images that no manifest names."""

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
from fedcore.data.io.readers import ImageError, read_image
from fedcore.data.preprocess.decode import Decoding
from fedcore.data.source import Data
from fedcore.errors import InputError, InputErrors
from fedcore.files.writing import append, require_writable
from fedcore.runs.classifiers import classifiers_of
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import Counting
from fedtune.classification.finetuning import finetune
from fedtune.evaluation.native_grid import answers, native_mask
from fedtune.prediction.mask_files import write_mask
from fedtune.prediction.mask_names import names_of, readable
from fedtune.segmentation.training import segment

TABLE = "predictions.csv"
GUESS = "predicted_class"


def predict(run: Path, images: Path, out: Path, site: str | None = None, on_error: str = "stop") -> Path:
    """Say what a finished run's model sees in images: probabilities of classes, or masks.

    Args:
        run: a finished finetune or segment run.
        images: an image file, a DICOM series' folder, or a folder of either.
        out: new folder for predictions.csv and, from a segmenter, masks with each image's own geometry. Where the run
            cut volumes into slices, a classifier's table has a row a slice, numbered from 0 along `data.slices`, and a
            mask is put together from its slices. Slices of one single value have no row and are background. The table
            grows with each image; whatever ends the command, what was predicted before is kept.
        site: the model as it is at this site, where sites keep a part of it or all to themselves.
        on_error: unreadable images are left out of the table; the command then names them and ends with an error
            (stop), or ends as usual (skip).
    """
    out = Path(out)
    require_writable(out)
    if out.exists():
        raise InputError(f"{out} exists already; name another folder")
    if on_error not in ("stop", "skip"):
        raise InputError(f"on_error must be stop or skip, got {on_error}")
    model = Model.of(RunFolder(Path(run)), site)
    files = _files(Path(images), model.how.dims)
    faults = _predict_all(model, files, Path(images), out)
    if faults and (on_error == "stop" or len(faults) == len(files)):
        kept = len(files) - len(faults)
        raise InputErrors(
            "images", faults, f"{kept} others are in {out / TABLE}; --on_error skip leaves these out." * bool(kept)
        )
    return out / TABLE


def _predict_all(model: Model, files: Sequence[Path], images: Path, out: Path) -> list[str]:
    """Writes the table, image by image, and returns what is wrong with those that cannot be read."""
    faults, heading = [], [["image", *model.columns]]
    with Counting("predicting") as counting:
        for done, (file, named) in enumerate(zip(files, names_of(files), strict=True), 1):
            name = readable(str(file.relative_to(images)) if file != images else file.name)
            try:
                rows = [[name, *row] for row in model.rows(file, out, named)]
                append(out / TABLE, _csv([*heading, *rows]))
                heading = []
            except ImageError as fault:
                faults.append(f"{readable(file.name)}: {fault}")
            counting(done, len(files))
    return faults


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def command(arguments: Sequence[str]) -> None:
    print(call(predict, "predict", arguments))


@dataclass(frozen=True)
class Model:
    """A trained network with what it has to know of images."""

    network: nn.Module
    how: Decoding
    classes: tuple[str, ...]
    structures: int
    """Class numbers of masks; 0 for a classifier."""
    several: bool
    """Whether an image may have several of the classes."""

    @classmethod
    def of(cls, run: RunFolder, site: str | None) -> Model:
        """Raises InputError where there is no finished run, or not the model that is asked for."""
        about = run.about()
        if about.get("command") not in ("finetune", "segment") or about.get("status") != "finished":
            raise InputError(f"predict takes a finished finetune or segment run, and {run.path} holds none")
        run.finished()
        known = classifiers_of(run)
        if site not in known:
            sites = [name for name in known if name]
            raise InputError(
                f"sites have a model each, so name one: --site {sites[0]} ({', '.join(sites)})"
                if sites
                else "all sites have one model; leave --site away"
            )
        stage: Any = segment if about["command"] == "segment" else finetune
        recipe = read_recipe(stage, "predict", [str(run.path / "recipe.yaml")]).build()
        data: Data = recipe["data"]
        how = data.decoding(tuple(about["size"]), about["channels"])
        return cls(known[site], how, tuple(about.get("classes") or ()), about.get("structures", 0),
                   about.get("several_findings", False))  # fmt: skip

    @property
    def columns(self) -> list[str]:
        if self.structures:
            unit = "pixels" if self.how.dims == 2 else "voxels"
            return ["mask", *(f"{unit}_{number}" for number in range(1, self.structures))]
        known = [f"class {name}" if name in ("image", "slice", GUESS) else name for name in self.classes]
        return [*(["slice"] if self.how.slices is not None else []), GUESS, *known]

    def rows(self, file: Path, out: Path, named: str) -> list[list[str]]:
        """What is said of one image, or of each of its slices; writes its mask, as `named`. Raises ImageError."""
        raw, layout = read_image(file, nan=self.how.nan), self.how.layout(file)
        said = answers(self.network, self.how, raw, layout)
        if self.structures:
            mask = native_mask(said, self.how, raw.shape[1:], layout)
            path = write_mask(out / "masks", file, mask, named)
            counts = np.bincount(mask.ravel(), minlength=self.structures)[1:]
            return [[str(path.relative_to(out)), *map(str, counts.tolist())]]
        if self.how.slices is None:
            return [self._told(logits) for _, logits in said]
        return [[str(place), *self._told(logits)] for place, logits in said]

    def _told(self, logits: Float[Tensor, " k"]) -> list[str]:
        probabilities = logits.sigmoid() if self.several else logits.softmax(0)
        seen = (probabilities > 0.5).nonzero().flatten() if self.several else logits.argmax(0, keepdim=True)
        guess = SEPARATOR.join(self.classes[k] for k in seen)
        return [guess, *(f"{p:.4f}" for p in probabilities.tolist())]


def _files(images: Path, dims: int) -> list[Path]:
    """The file itself, a series' folder itself, or what lies in a folder.

    To a model of volumes a folder of DICOM files is a series, to one of pictures each of them is an image.
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
