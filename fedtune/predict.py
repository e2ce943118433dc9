"""`fedpretrain predict RUN IMAGES OUT`: what a fine-tuned model sees in images that no manifest names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcore.classifiers import classifiers_of
from fedcore.data.findings import SEPARATOR
from fedcore.data.geometry import Spacing, fit, unfit, with_channels
from fedcore.data.readers import ImageFault, read_image
from fedcore.data.scaling import Percentiles
from fedcore.data.source import Data
from fedcore.data.spacing import spacing_of
from fedcore.errors import Faults, InputError
from fedcore.files import require_writable, write_atomically
from fedcore.progress import Counting
from fedcore.recipe import read_recipe
from fedcore.run import RunFolder
from fedcore.words import call
from fedtune.finetune import finetune
from fedtune.mask_files import write_mask
from fedtune.segment import segment

TABLE = "predictions.csv"


def predict(run: Path, images: Path, out: Path, site: str | None = None, on_fault: str = "stop") -> Path:
    """Say what a finished run's model sees in images: probabilities of classes, or masks.

    Args:
        run: a finished finetune or segment run.
        images: an image file, a DICOM series' folder, or a folder of either.
        out: new folder for predictions.csv and, from a segmenter, masks with each image's own geometry.
        site: the model as it is at this site, where sites keep a part of it or all to themselves.
        on_fault: an unreadable image stops before anything is written, or is left out (skip).
    """
    out = Path(out)
    require_writable(out)
    if out.exists():
        raise InputError(f"{out} exists already; name another folder")
    if on_fault not in ("stop", "skip"):
        raise InputError(f"on_fault must be stop or skip, got {on_fault}")
    model, files = Model.of(RunFolder(Path(run)), site), _files(Path(images))
    rows, faults = [], []
    with Counting("predicting") as counting:
        for done, file in enumerate(files, 1):
            try:
                rows.append([str(file.relative_to(images)) if file != images else file.name, *model.row(file, out)])
            except ImageFault as fault:
                faults.append(f"{file.name}: {fault}")
            counting(done, len(files))
    if faults and (on_fault == "stop" or not rows):
        raise Faults("images", faults, f"{len(rows)} others are predicted; --on_fault skip leaves these out.")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["image", *model.columns], *rows])
    write_atomically(out / TABLE, text.getvalue().encode())
    return out / TABLE


def command(arguments: Sequence[str]) -> None:
    print(call(predict, "predict", arguments))


@dataclass(frozen=True)
class Model:
    """A trained network with what it has to know of images."""

    network: nn.Module
    data: Data
    size: tuple[int, ...]
    channels: int
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
        if recipe["data"].slices is not None:
            raise InputError("predict takes whole images, and this run cut volumes into slices (data.slices)")
        return cls(known[site], recipe["data"], tuple(about["size"]), about["channels"], tuple(about["classes"]),
                   about.get("structures", 0), about.get("several_findings", False))  # fmt: skip

    @property
    def columns(self) -> list[str]:
        if self.structures:
            return ["mask", *(f"pixels of {number}" for number in range(1, self.structures))]
        return ["guess", *self.classes]

    def row(self, file: Path, out: Path) -> list[str]:
        """What is said of one image; writes its mask. Raises ImageFault."""
        raw, mm = read_image(file), spacing_of(file)
        answer = self.answer(raw, mm)
        if not self.structures:
            probabilities = answer.sigmoid() if self.several else answer.softmax(0)
            seen = (probabilities > 0.5).nonzero().flatten() if self.several else answer.argmax(0, keepdim=True)
            guess = SEPARATOR.join(self.classes[k] for k in seen)
            return [guess, *(f"{p:.4f}" for p in probabilities.tolist())]
        mask = unfit(answer, raw.shape[1:], mm).argmax(0).numpy().astype(np.uint8)
        path = write_mask(out / "masks", file, mask)
        counts = np.bincount(mask.ravel(), minlength=self.structures)[1:]
        return [str(path.relative_to(out)), *map(str, counts.tolist())]

    @torch.inference_mode()
    def answer(self, raw: np.ndarray, mm: Spacing | None = None) -> Float[Tensor, "k *_"]:
        """Logits of an image as `read_image` gives it, which is treated as in training."""
        dims = raw.ndim - 1
        if dims != len(self.size):
            raise ImageFault(f"a {dims}D image, and the model knows {len(self.size)}D ones")
        scaled = (self.data.scaling or Percentiles())(raw)
        try:
            pixels = fit(with_channels(scaled, self.channels), self.size, self.channels, mm)
        except ValueError as e:
            raise ImageFault(f"{raw.shape[0]} channels cannot become {self.channels}") from e
        image = torch.from_numpy(pixels.astype(np.float16)).float()  # as images are kept for training
        logits: Tensor = self.network(image[None])[0]
        return logits


def _files(images: Path) -> list[Path]:
    """The file itself, a series' folder itself, or what lies in a folder."""
    from pydicom.misc import is_dicom

    if not images.exists():
        raise InputError(f"{images} does not exist; give an image or a folder of images")
    if images.is_file():
        return [images]
    inside = sorted(path for path in images.iterdir() if not path.name.startswith("."))
    if inside and all(path.is_file() and is_dicom(path) for path in inside):
        return [images]
    files = [path for path in inside if path.is_dir() or path.suffix.lower() not in (".csv", ".txt", ".md", ".json")]
    if not files:
        raise InputError(f"{images} holds no images")
    return files
