"""`fedpretrain generate release`: a drawn set that its audit found private becomes one that may be handed on."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from fedcore.data.synthetic.audit_record import AUDIT, AuditRecord
from fedcore.data.synthetic.release_criteria import ReleaseCriteria
from fedcore.data.synthetic.synthetic_set import SITE, digest_of
from fedcore.errors import InputError, InputErrors
from fedcore.files.checksums import write_sums
from fedcore.files.writing import require_no_links, require_writable, write_atomically, write_json
from fedcore.runs.folder import RunFolder
from fedgen.auditing.allowance import asked_about
from fedgen.auditing.run import inspect
from fedgen.releases.contact_sheet import contact_sheet
from fedgen.releases.datasheet import datasheet
from fedgen.synthetic.dicom_files import as_dicom
from fedgen.synthetic.image_files import decoded
from fedgen.synthetic.synthetic_set import COLUMNS, MANIFEST, SyntheticImage, SyntheticSet

SHEET = "README.md"


def release(
    folder: Path,
    out: Path,
    kind: Literal["same", "dicom"] = "same",
    drop: bool = False,
    force: bool = False,
    allow_not_useful: bool = False,
    run: Path | None = None,
) -> Path:
    """Writes a drawn set that its audit found private into a folder that may be handed on, and returns its manifest.

    Args:
        folder: A set of `generate sample` that `generate audit` has looked at.
        out: Folder of the release; must not exist yet.
        kind: same: PNG or NIfTI as they were drawn; dicom: secondary captures that say they are synthetic.
        drop: Leave out images that are copies, if they are few, and audit the rest again.
        force: Release a set that failed its privacy check, or has none; the datasheet says so.
        allow_not_useful: Release a set that its audit found not fit for use; the datasheet says so.
        run: The run that drew a set that nobody has audited; only where that is forced.
    """
    drawn, folder, out = SyntheticSet.open(Path(folder)), Path(folder), Path(out)
    require_no_links(folder)
    require_writable(out)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already; name another folder")
    if kind == "dicom" and len(decoded(drawn.images[0].path)) != 1:
        raise InputError("as DICOM, images of 1 channel are written, and these are in colour; release them as they are")
    audit = _audit(drawn, force)
    if audit and drop and audit.copies:
        audit = _again(drawn, audit)
    _require_allowed(drawn, audit, force, allow_not_useful)
    if audit is None and run is None:
        raise InputError(f"nobody has audited {folder}, so name the run that drew it by --run RUN")
    chosen = drawn.without(audit.left_out if audit else ())
    source = _source(Path(audit.options["run"]) if audit else Path(run or ""))
    sheet = _sheet(chosen, source, audit)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A new folder of a name that nobody could foresee: a link may have been put where a known one would be.
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent, ignore_cleanup_errors=True) as targets:
            part = Path(targets) / out.name
            _write(part, chosen, kind, audit, sheet)
            part.rename(out)
    except OSError as e:  # another release may have come first
        raise InputError(f"{out} cannot be written ({e.strerror}); name another folder") from e
    return out / MANIFEST


def _audit(drawn: SyntheticSet, force: bool) -> AuditRecord | None:
    """The audit of the set as it is; None where there is none and that is forced."""
    path = drawn.folder / AUDIT
    if force and not path.exists():
        return None
    try:
        audit = AuditRecord.read(drawn.folder)
        asked = Path(audit.options["run"])
    except (InputError, KeyError, TypeError) as e:
        raise InputError(
            f"{drawn.folder} has no audit that can be relied on ({e}); first: fedpretrain generate audit RUN "
            f"{drawn.folder}"
        ) from e
    again = f"again: fedpretrain generate audit {asked} {drawn.folder}"
    if (audit.set, audit.generator, audit.data) != (drawn.digest(), *map(drawn.settings.get, ("generator", "data"))):
        raise InputError(f"{drawn.folder} has changed since its audit; {again}")
    if silent := [site for site in audit.sites if not asked_about(asked / "sites" / site, audit.set)]:
        raise InputError(
            f"the audit file of {silent[0]} does not list this set, so its {AUDIT} is not what the sites said; {again}"
        )
    return audit


def _again(drawn: SyntheticSet, audit: AuditRecord) -> AuditRecord:
    """The audit without the copies."""
    if not ReleaseCriteria().droppable(audit.groups):
        raise _refusal(drawn, audit)
    numbers = {i.number for i in drawn.images if i.path.name in audit.copies} | set(audit.left_out)
    asked = audit.options
    encoder = Path(asked["encoder"]) if asked["encoder"] else None
    return inspect(Path(asked["run"]), drawn.folder, encoder, asked["overrides"], numbers)


def _require_allowed(drawn: SyntheticSet, audit: AuditRecord | None, force: bool, allow_not_useful: bool) -> None:
    """Each verdict against the set takes its own word."""
    if audit and audit.safe.answer == "no" and not force:
        raise _refusal(drawn, audit)
    if audit and audit.useful.answer == "no" and not allow_not_useful:
        raise InputErrors(
            f"{drawn.folder} is not fit for use", audit.useful.because,
            "--allow_not_useful true releases it all the same, and says so in the datasheet.",
        )  # fmt: skip


def _refusal(drawn: SyntheticSet, audit: AuditRecord) -> InputErrors:
    named = [f"{name}: a copy, say {', '.join(sites)}" for name, sites in audit.copies.items()]
    few = audit.copies and ReleaseCriteria().droppable(audit.groups)
    advice = "--drop true leaves copies out and audits again; " if few else ""
    return InputErrors(
        f"{drawn.folder} may not be released: the privacy check failed", [*audit.safe.because, *named],
        f"{advice}--force true releases it all the same, and says so in the datasheet.", shown=20,
    )  # fmt: skip


def _source(path: Path) -> RunFolder:
    run = RunFolder(path)
    if not run.about():
        raise InputError(f"{path}, the run that drew the set, is gone; audit the set again where it is")
    run.finished()
    return RunFolder(path, (path / "recipe.yaml").read_text(encoding="utf-8"))


def _sheet(drawn: SyntheticSet, run: RunFolder, audit: AuditRecord | None) -> str:
    """Raises InputError where the records it tells of, which others may have written, are not what they should be."""
    try:
        return datasheet(drawn, run, audit)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as e:
        raise InputError(
            f"no datasheet can be made of set.json and {AUDIT} of {drawn.folder} and of {run.path} "
            f"({type(e).__name__}: {e}); draw and audit the set again"
        ) from e


def _write(part: Path, drawn: SyntheticSet, kind: str, audit: AuditRecord | None, sheet: str) -> None:
    entropy = [drawn.digest()] if kind == "dicom" else None
    rows = [
        (_image(part, image, entropy), SITE, "train", image.label or "", image.site_style or "", _mask(part, image))
        for image in drawn.images
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_atomically(part / MANIFEST, text.getvalue().encode())
    for name, shown in _by_class(drawn).items():
        write_atomically(part / "sheets" / name, contact_sheet(torch.stack([decoded(i.path) for i in shown])))
    if audit:
        write_json(part / AUDIT, replace(audit, released=digest_of(part / MANIFEST)).as_dict())
    write_atomically(part / SHEET, sheet.encode())
    write_sums(part, sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()))


def _by_class(drawn: SyntheticSet) -> dict[str, list[SyntheticImage]]:
    """Some images of each class, under a file's name that no other class has, whatever the classes are called."""
    labels = sorted({image.label or "" for image in drawn.images})
    return {
        _sheet_name(at, label): _some([image for image in drawn.images if (image.label or "") == label])
        for at, label in enumerate(labels)
    }


def _sheet_name(at: int, label: str) -> str:
    return f"{at}_{re.sub('[^a-zA-Z0-9.-]+', '_', label)[:40]}.png" if label else "all.png"


def _some(images: list[SyntheticImage], most: int = 64) -> list[SyntheticImage]:
    return images[:: max(1, -(-len(images) // most))]


def _image(part: Path, image: SyntheticImage, entropy: list[str] | None) -> str:
    """Writes the file as it was drawn or, with the entropy of its UIDs, as DICOM; returns its name."""
    if entropy is None:
        name, data = f"images/{image.path.name}", image.path.read_bytes()
    else:
        name, data = f"images/{image.number:06d}.dcm", as_dicom(decoded(image.path), image.number, entropy)
    write_atomically(part / name, data)
    return name


def _mask(part: Path, image: SyntheticImage) -> str:
    """As it was drawn, whatever the images become."""
    if image.mask is None:
        return ""
    name = f"masks/{image.mask.name}"
    write_atomically(part / name, image.mask.read_bytes())
    return name
