"""A contact sheet: a few images of every site, scaled and resized as in a run."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.data.io.affine import grid_of
from fedcore.data.io.class_numbers import as_classes
from fedcore.data.io.error import ImageError
from fedcore.data.io.masks import read_mask_for
from fedcore.data.io.readers import read_image
from fedcore.data.io.spacing import spacing_of
from fedcore.data.manifest.columns import DEFAULT_COLUMNS, Columns
from fedcore.data.manifest.manifest import read_manifest
from fedcore.data.manifest.row import Row
from fedcore.data.mask_classes import UNLABELED, Mask255
from fedcore.data.preprocess.geometry import fit, fit_mask
from fedcore.data.preprocess.mask_values import infer_mask_255, read_mask_values
from fedcore.data.preprocess.scaling import Percentiles
from fedcore.data.preprocess.slices import in_slice, volume_slices
from fedcore.errors import InputError, InputErrors
from fedcore.files.writing import write_atomically

_INCHES = 1.25
_INK, _FAINT, _CONTOUR = "#1f2933", "#7b8794", "#ffb000"


def preview(
    manifest: Path,
    out: Path = Path("preview.png"),
    per_site: int = 6,
    size: int = 128,
    columns: Columns = DEFAULT_COLUMNS,
) -> Path:
    """Writes a PNG with one row per site: images, the middle slices of volumes, and masks as contours.

    Images are taken at equal distances from the site's rows, so that those of a manifest sorted by class have all
    classes.

    Args:
        manifest: A CSV; see fedcore.data.manifest.manifest.
        out: The picture to write.
        per_site: Images per site.
        size: Pixels per side.
        columns: The column names of the file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if per_site < 1 or size < 8:
        raise InputError(f"per_site must be 1 or more and size 8 or more, got {per_site} and {size}")
    kind = out.suffix[1:].lower() or "png"
    if kind not in FigureCanvasAgg.filetypes:
        raise InputError(f"out must be the name of a picture, such as preview.png, got {out.name}")
    rows = read_manifest(manifest, columns, on_error="skip").rows
    sites = sorted({row.site for row in rows})
    labelled = any(row.label for row in rows)
    mask_255 = _mask_255(rows)
    row_inches = _INCHES * (1.17 if labelled else 1.06)
    figure = Figure(figsize=(_INCHES * per_site + 1.7, row_inches * len(sites) + 0.45), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(sites), per_site, squeeze=False)
    top, left = 1 - 0.4 / figure.get_figheight(), 1.6 / figure.get_figwidth()
    figure.subplots_adjust(
        left=left,
        right=0.99,
        top=top,
        bottom=0.02,
        wspace=0.06,
        hspace=0.18 if labelled else 0.06,
    )
    figure.text(0.02, 1 - 0.15 / figure.get_figheight(), _title(manifest, rows), color=_INK, va="top", fontsize=9)
    for site, line in zip(sites, axes, strict=True):
        own = [row for row in rows if row.site == site]
        _name(line[0], site, len(own))
        picks = np.unique(np.linspace(0, len(own) - 1, per_site).round().astype(int))
        for axis in line:
            axis.set_axis_off()
        for axis, at in zip(line, picks, strict=False):
            _draw(axis, own[at], size, mask_255)
    data = BytesIO()
    figure.savefig(data, dpi=200, format=kind)
    write_atomically(out, data.getvalue())
    return out


def _title(manifest: Path, rows: tuple[Row, ...]) -> str:
    sites, patients = len({row.site for row in rows}), len({row.patient for row in rows})
    name = manifest.absolute().parent.name
    of_patients = f" of {patients} patients" if patients < len(rows) else ""
    return f"{name}: {len(rows)} image{'s' * (len(rows) != 1)}{of_patients}, {sites} site{'s' * (sites > 1)}"


def _name(axis: Any, site: str, count: int) -> None:
    style: dict[str, Any] = {"transform": axis.transAxes, "ha": "right", "fontsize": 8}
    axis.text(-0.08, 0.54, site.replace("_", " ")[:26], color=_INK, va="bottom", **style)
    axis.text(-0.08, 0.46, f"{count} image{'s' * (count != 1)}", color=_FAINT, va="top", **style)


def _mask_255(rows: tuple[Row, ...]) -> Mask255:
    try:
        return infer_mask_255(read_mask_values(rows))
    except InputErrors:  # a run then needs data.mask_255
        return "unlabelled"


def _draw(axis: Any, row: Row, size: int, mask_255: Mask255) -> None:
    try:
        pixels, mask = _slice(row, size, mask_255)
    except ImageError as error:
        axis.text(0.5, 0.5, str(error), ha="center", va="center", fontsize=5, color="#c0392b", wrap=True)
        return
    picture = (np.moveaxis(pixels, 0, -1) + 1) / 2
    axis.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1)
    outlined = None if mask is None else (mask > 0) & (mask < UNLABELED)
    if outlined is not None and outlined.any() and not outlined.all():
        axis.contour(outlined, levels=[0.5], colors=_CONTOUR, linewidths=0.6)
    axis.set_title(row.label or "", fontsize=6, color=_FAINT, pad=2)


def _slice(row: Row, size: int, mask_255: Mask255) -> tuple[np.ndarray, np.ndarray | None]:
    """(c, size, size) in [-1, 1] and its mask; of a volume the middle axial slice, or along the first stored axis if it
    has no orientation."""
    image = Percentiles()(read_image(row.image, row.member, row.index))
    mask = None if row.mask is None else as_classes(read_mask_for(row.image, row.mask, image.shape[1:]), mask_255)
    grid, mm = (None, None) if row.member else (grid_of(row.image), spacing_of(row.image))
    if image.ndim == 4:
        ras = grid is not None and grid.affine is not None
        axis = 2 if ras else 0
        middle = image.shape[1 + axis] // 2
        image = volume_slices(image, axis, ras)[middle]
        mask = None if mask is None else volume_slices(mask, axis, ras)[middle]
        mm = mm and in_slice(mm, axis, ras)
    channels = 1 if (image == image[:1]).all() else 3
    square = (size, size)
    return fit(image, square, channels, mm), None if mask is None else fit_mask(mask, square, mm)
