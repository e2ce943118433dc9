"""`fedpretrain generate release`: writes a synthetic set that passed its audit into a folder that may be shared."""

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
from fedcore.runs.communication import ANSWERS, answers
from fedcore.runs.folder import RunFolder
from fedgen.auditing.allowance import AUDIT_SET, has_audited
from fedgen.auditing.run import are_apart, audit
from fedgen.releases.contact_sheet import contact_sheet
from fedgen.releases.datasheet import datasheet
from fedgen.synthetic.dicom_files import as_dicom
from fedgen.synthetic.image_files import decoded
from fedgen.synthetic.synthetic_set import COLUMNS, MANIFEST, SyntheticImage, SyntheticSet

DATASHEET = "README.md"


def release(
    folder: Path,
    out: Path,
    kind: Literal["same", "dicom"] = "same",
    drop: bool = False,
    force: bool = False,
    allow_not_useful: bool = False,
    run: Path | None = None,
) -> Path:
    """Writes a synthetic set that passed its audit into a folder that may be shared, and returns its manifest.

    Args:
        folder: A synthetic set with the record of `generate audit`.
        out: Folder of the release; must not exist yet.
        kind: same: PNG or NIfTI as in the set; dicom: secondary captures that are marked as synthetic.
        drop: Leave out images that are copies, if they are few, and audit the rest again.
        force: Release a set that failed its privacy check, or has no audit; the datasheet says so.
        allow_not_useful: Release a set that is not fit for use by its audit; the datasheet says so.
        run: The run that a set without an audit comes from; only with `force`.
    """
    synthetic, folder, out = SyntheticSet.open(Path(folder)), Path(folder), Path(out)
    require_no_links(folder)
    require_writable(out)
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already; name another folder")
    if kind == "dicom" and len(decoded(synthetic.images[0].path)) != 1:
        raise InputError("DICOM needs images of 1 channel, and these are in colour; release them with --kind same")
    record = _read_record(synthetic, force)
    if record and drop and record.copies:
        record = _audit_without_copies(synthetic, record)
    _require_allowed(synthetic, record, force, allow_not_useful)
    if record is None and run is None:
        raise InputError(f"{folder} has no audit; name the run that it comes from by --run RUN")
    chosen = synthetic.without(record.left_out if record else ())
    source = _source(Path(record.options["run"]) if record else Path(run or ""))
    sheet = _datasheet(chosen, source, record)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A new folder of an unpredictable name: under a predictable one somebody could have put a link.
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}-", dir=out.parent, ignore_cleanup_errors=True
        ) as temporary:
            part = Path(temporary) / out.name
            _write(part, chosen, kind, record, sheet)
            part.rename(out)
    except OSError as e:  # another release may have been written meanwhile
        raise InputError(f"{out} cannot be written ({e.strerror}); name another folder") from e
    return out / MANIFEST


def _read_record(synthetic: SyntheticSet, force: bool) -> AuditRecord | None:
    """The audit record of the set as it is; None where there is none and the release is forced."""
    path = synthetic.folder / AUDIT
    if force and not path.exists():
        return None
    try:
        record = AuditRecord.read(synthetic.folder)
        run = Path(record.options["run"])
    except (InputError, KeyError, TypeError) as e:
        raise InputError(
            f"{synthetic.folder} has no valid audit record ({e}); first: fedpretrain generate audit RUN "
            f"{synthetic.folder}"
        ) from e
    again = f"again: fedpretrain generate audit {run} {synthetic.folder}"
    audited = record.set, record.generator, record.data
    if audited != (synthetic.digest(), *map(synthetic.settings.get, ("generator", "data"))):
        raise InputError(f"{synthetic.folder} has changed since its audit; {again}")
    if are_apart(run):
        again += " --at DEPLOYMENT"
        if missing := sorted({*record.sites} - _answered(run)):
            raise InputError(
                f"{run / ANSWERS} lists no audit of {missing[0]}, so {AUDIT} does not come from the sites; {again}"
            )
    elif missing := [site for site in record.sites if not has_audited(run / "sites" / site, record.set)]:
        raise InputError(
            f"the audit log of {missing[0]} does not list this set, so {AUDIT} does not come from the sites; {again}"
        )
    return record


def _answered(run: Path) -> set[str]:
    """Sites of a deployment that answered an audit; their audit logs, which name the sets, stay with them."""
    return {site for line in answers(run) if line.get("request") == AUDIT_SET for site in line["sites"]}


def _audit_without_copies(synthetic: SyntheticSet, record: AuditRecord) -> AuditRecord:
    if not ReleaseCriteria().droppable(record.groups):
        raise _rejection(synthetic, record)
    options = record.options
    if are_apart(Path(options["run"])):
        raise InputError(
            f"--drop true audits again, and the sites of {options['run']} are on machines of their own; generate "
            "another set, with another --seed, and audit it with --at"
        )
    numbers = {i.number for i in synthetic.images if i.path.name in record.copies} | set(record.left_out)
    encoder = Path(options["encoder"]) if options["encoder"] else None
    return audit(Path(options["run"]), synthetic.folder, encoder, options["overrides"], numbers)


def _require_allowed(synthetic: SyntheticSet, record: AuditRecord | None, force: bool, allow_not_useful: bool) -> None:
    """Each verdict against the set has an option of its own."""
    if record and record.safe.answer == "no" and not force:
        raise _rejection(synthetic, record)
    if record and record.useful.answer == "no" and not allow_not_useful:
        raise InputErrors(
            f"{synthetic.folder} is not fit for use", record.useful.reasons,
            "--allow_not_useful true releases it nevertheless; the datasheet then states it.",
        )  # fmt: skip


def _rejection(synthetic: SyntheticSet, record: AuditRecord) -> InputErrors:
    copies = [f"{name}: a copy of an image of {', '.join(sites)}" for name, sites in record.copies.items()]
    few = record.copies and ReleaseCriteria().droppable(record.groups) and not are_apart(Path(record.options["run"]))
    advice = "--drop true removes the copies and audits again; " if few else ""
    return InputErrors(
        f"{synthetic.folder} may not be released: the privacy check failed", [*record.safe.reasons, *copies],
        f"{advice}--force true releases it nevertheless; the datasheet then states it.", shown=20,
    )  # fmt: skip


def _source(path: Path) -> RunFolder:
    run = RunFolder(path)
    if not run.about():
        raise InputError(
            f"{path}, the run that the set comes from, is missing; audit the set again with the run's new path"
        )
    run.finished()
    return RunFolder(path, (path / "recipe.yaml").read_text(encoding="utf-8"))


def _datasheet(synthetic: SyntheticSet, run: RunFolder, record: AuditRecord | None) -> str:
    """Raises InputError where the files it is made from, which others may have written, are incomplete or damaged."""
    try:
        return datasheet(synthetic, run, record)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as e:
        raise InputError(
            f"no datasheet can be made of set.json and {AUDIT} of {synthetic.folder} and of {run.path} "
            f"({type(e).__name__}: {e}); generate and audit the set again"
        ) from e


def _write(part: Path, synthetic: SyntheticSet, kind: str, record: AuditRecord | None, sheet: str) -> None:
    entropy = [synthetic.digest()] if kind == "dicom" else None
    rows = [
        (_write_image(part, image, entropy), SITE, "train", image.label or "", image.site_style or "",
         _write_mask(part, image))
        for image in synthetic.images
    ]  # fmt: skip
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_atomically(part / MANIFEST, text.getvalue().encode())
    for name, shown in _by_class(synthetic).items():
        write_atomically(part / "sheets" / name, contact_sheet(torch.stack([decoded(i.path) for i in shown])))
    if record:
        write_json(part / AUDIT, replace(record, released=digest_of(part / MANIFEST)).as_dict())
    write_atomically(part / DATASHEET, sheet.encode())
    write_sums(part, sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()))


def _by_class(synthetic: SyntheticSet) -> dict[str, list[SyntheticImage]]:
    """Some images of each class by the file name of its contact sheet, which differs for all names of classes."""
    labels = sorted({image.label or "" for image in synthetic.images})
    return {
        _sheet_name(number, label): _some([image for image in synthetic.images if (image.label or "") == label])
        for number, label in enumerate(labels)
    }


def _sheet_name(number: int, label: str) -> str:
    return f"{number}_{re.sub('[^a-zA-Z0-9.-]+', '_', label)[:40]}.png" if label else "all.png"


def _some(images: list[SyntheticImage], limit: int = 64) -> list[SyntheticImage]:
    return images[:: max(1, -(-len(images) // limit))]


def _write_image(part: Path, image: SyntheticImage, entropy: list[str] | None) -> str:
    """Writes the file as it is or, with the entropy of its UIDs, as DICOM; returns its name."""
    if entropy is None:
        name, data = f"images/{image.path.name}", image.path.read_bytes()
    else:
        name, data = f"images/{image.number:06d}.dcm", as_dicom(decoded(image.path), image.number, entropy)
    write_atomically(part / name, data)
    return name


def _write_mask(part: Path, image: SyntheticImage) -> str:
    """Writes the file as it is, whatever the format of the images, and returns its name."""
    if image.mask is None:
        return ""
    name = f"masks/{image.mask.name}"
    write_atomically(part / name, image.mask.read_bytes())
    return name
