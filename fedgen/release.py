"""`fedpretrain generate release`: a drawn set that has passed its audit becomes one that may be handed on."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Literal

import torch

from fedcore.checksums import write_sums
from fedcore.data.synthetic import AUDIT, SITE
from fedcore.errors import Faults, InputError
from fedcore.files import require_writable, write_atomically, write_json
from fedcore.reading import json_of, text_of
from fedcore.run import RunFolder
from fedgen.contact import contact_sheet
from fedgen.datasheet import datasheet
from fedgen.dicom import as_dicom
from fedgen.drawn import COLUMNS, MANIFEST, DrawnImage, DrawnSet
from fedgen.gate import Gate
from fedgen.inspection import Inspection, inspect
from fedgen.pictures import decoded

SHEET = "README.md"


def release(
    folder: Path,
    out: Path,
    kind: Literal["same", "dicom"] = "same",
    drop: bool = False,
    force: bool = False,
    run: Path | None = None,
) -> Path:
    """Writes a drawn set that passed its audit into a folder that may be handed on, and returns its manifest.

    Args:
        folder: A set of `generate sample` that `generate audit` has looked at.
        out: Folder of the release; must not exist yet.
        kind: same: PNG or NIfTI as they were drawn; dicom: secondary captures that say they are synthetic.
        drop: Leave out images that are copies, if they are few, and audit the rest again.
        force: Release what did not pass; the datasheet says so.
        run: The run that drew a set that nobody has audited; only where that is forced.
    """
    drawn, folder, out = DrawnSet.open(Path(folder)), Path(folder), Path(out)
    require_writable(out)
    if out.exists():
        raise InputError(f"{out} exists already; name another folder")
    audit = _audit(drawn, force)
    if audit and drop and audit.copies:
        audit = _again(drawn, audit)
    if audit and not audit.passes and not force:
        raise _refusal(drawn, audit)
    if audit is None and run is None:
        raise InputError(f"nobody has audited {folder}, so name the run that drew it by --run RUN")
    chosen = drawn.without(audit.left_out if audit else ())
    source = _source(Path(audit.asked["run"]) if audit else Path(run or ""))
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(part, chosen, kind, audit, datasheet(chosen, source, audit, not (audit and audit.passes)))
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out / MANIFEST


def _audit(drawn: DrawnSet, force: bool) -> Inspection | None:
    """The audit of the set as it is; None where there is none and that is forced."""
    path = drawn.folder / AUDIT
    try:
        told = json_of(text_of(path))
        told.pop("passes")
        audit = Inspection(**told)
    except (OSError, ValueError, KeyError, TypeError) as e:
        if force and not path.exists():
            return None
        raise InputError(
            f"{drawn.folder} has not been audited; first: fedpretrain generate audit RUN {drawn.folder}"
        ) from e
    if audit.set != drawn.digest():
        raise InputError(
            f"{drawn.folder} has changed since its audit; again: fedpretrain generate audit {audit.asked['run']} "
            f"{drawn.folder}"
        )
    return audit


def _again(drawn: DrawnSet, audit: Inspection) -> Inspection:
    """The audit without the copies."""
    numbers = {i.number for i in drawn.images if i.path.name in audit.copies} | set(audit.left_out)
    if not Gate().droppable(len(drawn.images), len(numbers)):
        raise _refusal(drawn, audit)
    asked = audit.asked
    encoder = Path(asked["encoder"]) if asked["encoder"] else None
    return inspect(Path(asked["run"]), drawn.folder, encoder, asked["overrides"], numbers)


def _refusal(drawn: DrawnSet, audit: Inspection) -> Faults:
    named = [f"{name}: a copy, say {', '.join(sites)}" for name, sites in audit.copies.items()]
    few = audit.copies and Gate().droppable(len(drawn.images), len(audit.copies))
    advice = "--drop true leaves copies out and audits again; " if few else ""
    return Faults(
        f"{drawn.folder} may not be released", [*audit.objections, *named],
        f"{advice}--force true releases it all the same, and says so in the datasheet.", shown=20,
    )  # fmt: skip


def _source(path: Path) -> RunFolder:
    try:
        recipe = (path / "recipe.yaml").read_text(encoding="utf-8")
    except OSError as e:
        raise InputError(f"{path}, the run that drew the set, is gone; audit the set again where it is") from e
    return RunFolder(path, recipe)


def _write(part: Path, drawn: DrawnSet, kind: str, audit: Inspection | None, sheet: str) -> None:
    rows = [
        (_image(part, image, kind, drawn), SITE, "train", image.label or "", image.imitates or "", _mask(part, image))
        for image in drawn.images
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_atomically(part / MANIFEST, text.getvalue().encode())
    for label in sorted({image.label or "" for image in drawn.images}):
        images = torch.stack([decoded(i.path) for i in _some([i for i in drawn.images if (i.label or "") == label])])
        write_atomically(part / "sheets" / f"{label or 'all'}.png".replace("/", "_"), contact_sheet(images))
    if audit:
        write_json(part / AUDIT, audit.told())
    write_atomically(part / SHEET, sheet.encode())
    write_sums(part, sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()))


def _some(images: list[DrawnImage], most: int = 64) -> list[DrawnImage]:
    return images[:: max(1, -(-len(images) // most))]


def _image(part: Path, image: DrawnImage, kind: str, drawn: DrawnSet) -> str:
    name = f"images/{image.path.name}"
    data = image.path.read_bytes()
    if kind == "dicom":
        name = f"images/{image.number:06d}.dcm"
        data = as_dicom(decoded(image.path), image.number, [drawn.settings["generator"], str(drawn.settings["seed"])])
    write_atomically(part / name, data)
    return name


def _mask(part: Path, image: DrawnImage) -> str:
    """As it was drawn, whatever the images become."""
    if image.mask is None:
        return ""
    name = f"masks/{image.mask.name}"
    write_atomically(part / name, image.mask.read_bytes())
    return name
