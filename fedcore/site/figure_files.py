"""The files of figures that a site keeps for its own page: one dataclass per file, shared by writer and reader.

A field is an array of the file, under the field's name; its annotation gives dtype and axes, and an axis has the same
length wherever its name stands. Thumbnails are uint8 (c, h, w); of a volume they show one slice. Labels are class
indices, -1 without a label. The files stay in the site's folder; nothing of them is sent.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

import numpy as np
from jaxtyping import Float, Float16, Float32, Int, Int64, UInt8, jaxtyped

from fedcore.data.io import npz
from fedcore.data.io.limits import MAX_KEPT_BYTES, require_small
from fedcore.files.writing import write_arrays

F = TypeVar("F", bound="FigureFile")
MOST_PAIRS = 6
"""Nearest pairs that are kept for each way of comparing images."""


@dataclass(frozen=True)
class FigureFile:
    """Arrays as fields; a field that may be None is left out of the file then.

    Raises:
        ValueError: An array has another dtype or shape than its field says.
    """

    NAME: ClassVar[str]

    def __post_init__(self) -> None:
        with jaxtyped("context"):
            for name, expected in _fields(type(self)).items():
                if not isinstance(found := getattr(self, name), expected):
                    kind = getattr(expected, "__name__", expected)
                    raise ValueError(f"{name} must be {kind}, found {_described(found)}")

    def arrays(self) -> dict[str, np.ndarray]:
        """As the file holds them."""
        return {name: array for name in _fields(type(self)) if (array := getattr(self, name)) is not None}

    @classmethod
    def of(cls: type[F], arrays: Mapping[str, np.ndarray]) -> F:
        """Raises KeyError where an array is missing, and ValueError as the class does."""
        return cls(**{name: _array(arrays, name, expected) for name, expected in _fields(cls).items()})

    def save(self, folder: Path) -> None:
        write_arrays(folder / self.NAME, **self.arrays())

    @classmethod
    def load(cls: type[F], path: Path) -> F:
        """Raises whatever a damaged or foreign file gives rise to (`fedcore.report.read.site_files.UNREADABLE`)."""
        return cls.of(read_arrays(path))


@dataclass(frozen=True)
class AugmentedViewsFile(FigureFile):
    """A few training images, and the augmented views of each that the model was trained on; values in [-1, 1]."""

    NAME = "augmented_views.npz"

    images: Float16[np.ndarray, "n c *space"]
    views: Float16[np.ndarray, "n v c *view_space"] | None = None


@dataclass(frozen=True)
class FeatureGalleryFile(FigureFile):
    """Features of a site's images; for a few of these the nearest training images of other patients, nearest first."""

    NAME = "feature_gallery.npz"

    features: Float16[np.ndarray, "n d"]
    """Of length 1."""
    labels: Int64[np.ndarray, " n"]
    queries: UInt8[np.ndarray, "q c h w"]
    query_labels: Int64[np.ndarray, " q"]
    neighbours: UInt8[np.ndarray, "q k c2 h2 w2"]
    neighbour_labels: Int64[np.ndarray, "q k"]
    cosines: Float16[np.ndarray, "q k"]
    encoder_checksum: Int[np.ndarray, ""]
    """Features of encoders that differ cannot be compared."""


@dataclass(frozen=True)
class GeneratorSamplesFile(FigureFile):
    """A site's training images, and synthetic images of the same classes in the style of the site."""

    NAME = "generator_samples.npz"

    real: UInt8[np.ndarray, "r c h w"]
    real_labels: Int64[np.ndarray, " r"]
    synthetic: UInt8[np.ndarray, "s c2 h2 w2"]
    synthetic_labels: Int64[np.ndarray, " s"]
    denoised: UInt8[np.ndarray, "k c2 h2 w2"] | None = None
    """The model's estimate of the first synthetic image at some sampling steps; None: the generator has one step."""
    steps: Int64[np.ndarray, " k"] | None = None
    """Those steps, counted from 1."""
    step_count: Int[np.ndarray, ""] | None = None


@dataclass(frozen=True)
class SegmentationGalleryFile(FigureFile):
    """One to three test images with true and predicted masks (class numbers), sorted by Dice, best first."""

    NAME = "segmentation_gallery.npz"

    images: UInt8[np.ndarray, "n c h w"]
    true_masks: UInt8[np.ndarray, "n h w"]
    predicted_masks: UInt8[np.ndarray, "n h w"]
    dice: Float32[np.ndarray, " n"]
    """Of the whole image or volume: mean over the structures."""


@dataclass(frozen=True)
class ViewPairs(FigureFile):
    """The synthetic images that are closest to a training image by one way of comparing (`pixels`, `features`)."""

    synthetic: UInt8[np.ndarray, "q c h w"]
    """The closest first; at most MOST_PAIRS."""
    trained: UInt8[np.ndarray, "q c2 h2 w2"]
    numbers: Int[np.ndarray, " q"]
    """Of the synthetic images in their set."""
    closeness: Float[np.ndarray, " q"]
    limit: Float[np.ndarray, ""]
    """A synthetic image of smaller closeness counts as a copy."""
    synthetic_closeness: Float[np.ndarray, " s"]
    """Of all synthetic images."""
    held_out_closeness: Float[np.ndarray, " held_out"]
    """Of all held-out images of the site, which cannot be copies."""


@dataclass(frozen=True)
class NearestPairsFile(FigureFile):
    """What a site keeps of the last audit of a synthetic set; the arrays of a view are named `VIEW_...`."""

    NAME = "nearest_pairs.npz"

    set: str
    """Digest of the set."""
    views: Mapping[str, ViewPairs]

    def __post_init__(self) -> None:
        """Its views have been checked."""

    def arrays(self) -> dict[str, np.ndarray]:
        pairs = {f"{view}_{name}": a for view, of in self.views.items() for name, a in of.arrays().items()}
        return {"set": np.array(self.set), "views": np.array(list(self.views), dtype=str)} | pairs

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> NearestPairsFile:
        return cls(str(arrays["set"]), {str(view): _view(arrays, f"{view}_") for view in arrays["views"]})


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz within the limits; no objects are unpickled."""
    with zipfile.ZipFile(path) as archive:
        require_small(archive, MAX_KEPT_BYTES, path.name)
    npz.shapes(path)
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as held:
        return dict(held)


def _view(arrays: Mapping[str, np.ndarray], prefix: str) -> ViewPairs:
    return ViewPairs.of({name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)})


def _array(arrays: Mapping[str, np.ndarray], name: str, expected: Any) -> np.ndarray | None:
    return arrays.get(name) if isinstance(None, expected) else arrays[name]


def _fields(kind: type[FigureFile]) -> dict[str, Any]:
    """Annotation by name."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _described(found: object) -> str:
    return f"{found.dtype}{list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
