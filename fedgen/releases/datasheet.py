"""What is told of a released set: under the headings of the scorecard for synthetic medical data of Zamzmi et al.
2024 (arXiv 2406.11143), the seven Cs.

Markdown from the run's own record and the audit; what was not measured is said to be unmeasured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.data.synthetic.release_criteria import Verdict
from fedcore.report.markdown import fenced, plain, table
from fedcore.report.private import shorten_recipe
from fedcore.report.read.levels import meaning
from fedcore.report.units import figure, plural
from fedcore.runs.communication import highest
from fedcore.runs.folder import RunFolder
from fedgen.copies.copies import NOT_LOOKED_FOR
from fedgen.oneshot import teacher_accuracy as recognition
from fedgen.synthetic.synthetic_set import NOTE, RECOGNITION, SyntheticSet

_USE = """Made to enlarge training sets of {models}: add its manifest's rows to those of your own images. Not for
diagnosis, teaching of readers or any claim about a population. Nobody was scanned: a finding on one of these images is
what the generator takes for one. Check what a model gains from them on real images of every hospital, with and
without."""

_MASKS = "The audit did not check that a mask fits its image."


def datasheet(drawn: SyntheticSet, run: RunFolder, audit: AuditRecord | None) -> str:
    about = run.about()
    parts = [
        f"# {len(drawn.images)} synthetic images\n\n{_origin(drawn, len(about['sites']))}.\n\n{_verdicts(audit)}",
        f"## Congruence: how near to real images\n\n{_congruence(audit)}",
        f"## Coverage: how much of the real variety\n\n{_coverage(audit)}",
        f"## Constraint: what always holds\n\n{_constraint(about)}",
        f"## Completeness: what is there\n\n{_completeness(drawn)}",
        f"## Compliance: privacy\n\n{_compliance(drawn, run, audit)}",
        f"## Comprehension: how it was made, and what for\n\n{_comprehension(drawn, run)}",
        f"## Consistency: from site to site\n\n{_consistency(about, audit)}",
    ]
    return "\n\n".join(parts) + "\n"


def _origin(drawn: SyntheticSet, sites: int) -> str:
    if "generators" in drawn.settings:
        return f"Drawn by the generators of {len(drawn.settings['generators'])} hospitals, of each its own"
    if "classifiers" in drawn.settings:
        return f"Inverted from what classifiers of {sites} hospitals know of their images"
    return f"Drawn by a generator that {sites} hospitals trained together"


def _verdicts(audit: AuditRecord | None) -> str:
    if audit is None:
        return "- Privacy check: **not done; released by force**\n- Fit for use: **not measured**"
    safe, useful = audit.safe, audit.useful
    done = "passed" if safe.answer == "yes" else "**failed; released by force**"
    use = useful.answer if useful.answer == "yes" else f"**{useful.answer}**"
    copies = f"{plural(len(audit.copies), 'copy', 'copies')} in {audit.images} images"
    return (
        f"- Privacy check: {done} ({copies}; see Compliance)\n"
        f"- Fit for use: {use}, {plain('; '.join(useful.because))}{_open(useful)}"
    )


def _open(verdict: Verdict) -> str:
    return f" (not measured: {'; '.join(verdict.not_measured)})" if verdict.not_measured else ""


def _congruence(audit: AuditRecord | None) -> str:
    if audit is None or not audit.quality:
        return "Not measured: no encoder was given to the audit."
    there = {name: row for name, row in audit.quality.items() if row["fid"] is not None}
    rows = [[name, figure(row["fid"]), figure(row["held_out_fid"])] for name, row in there.items()]
    return (
        "Frechet distance to the images that were trained on, in features of the encoder "
        f"{plain(_short(audit.encoder))}; beside it that of held-out real images. The distance falls with the number "
        "of images, so it is of as many drawn images as were held out, the mean of ten drawings. A dash: too few "
        "images.\n\n" + table(["", "drawn", "held out"], rows) + _learned(audit)
    )


def _learned(audit: AuditRecord) -> str:
    columns = {"tstr": "drawn", "trtr": "real", "tstr_classes": "classes", "tstr_images": "held out"}
    rows = [[site, *(figure(told.get(k)) for k in columns)] for site, told in audit.sites.items() if "tstr" in told]
    if not rows:
        return "\n\nWhat a classifier learns of the images was not measured: too few images with a class."
    return (
        "\n\nBalanced accuracy on held-out real images of a linear classifier of the features, trained on drawn images "
        "and on as many real ones of the site.\n\n" + table(["site", *columns.values()], rows)
    )


def _coverage(audit: AuditRecord | None) -> str:
    if audit is None:
        return "Not measured."
    alike = _alike(audit)
    names = ("precision", "recall", "density", "coverage")
    rows = [
        [site, *(f"{figure(told.get(n))} ({figure(told.get(f'held_out_{n}'))})" for n in names)]
        for site, told in audit.sites.items()
        if "recall" in told
    ]
    if not rows:
        return alike + "Precision and recall were not measured: no encoder was given, or too few images."
    return alike + "In brackets, of as many held-out real images.\n\n" + table(["imitating", *names], rows)


def _alike(audit: AuditRecord) -> str:
    rows = [[site, *(figure(told.get(key)) for key in ("likeness", "real_likeness"))]
            for site, told in audit.sites.items() if "likeness" in told]  # fmt: skip
    twice = (
        f"{audit.own['repeated']:.1%} of the images are nearly equal to another one of the set, "
        f"{audit.own['constant']:.1%} are of one brightness."
    )
    if not rows:
        return f"{twice}\n\n"
    return (
        f"{twice} Mean structural similarity (MS-SSIM) of pairs of one class, where 1 is equal:\n\n"
        + table(["imitating", "drawn", "real"], rows) + "\n\n"
    )  # fmt: skip


def _constraint(about: Mapping[str, Any]) -> str:
    size, channels = " x ".join(map(str, about["size"])), about["channels"]
    return (
        f"{size} pixels, {channels} channel{'s' if channels != 1 else ''}; intensities have no unit. "
        "No rule of anatomy was checked: look at the images."
    )


def _completeness(drawn: SyntheticSet) -> str:
    counts = Counter((image.label or "-", image.imitates or "-") for image in drawn.images)
    rows = [[label, site, str(n)] for (label, site), n in sorted(counts.items())]
    text = "Every image has its row in manifest.csv.\n\n" + table(["class", "imitating", "images"], rows)
    note = f"\n\n{plain(told)}" if (told := drawn.settings.get(NOTE)) else ""
    return text + note + _recognised(drawn.settings.get(RECOGNITION, {}))


def _recognised(told: recognition.Told) -> str:
    if not told:
        return ""
    return (
        "\n\nOf all that were inverted, so many are recognised as their class by classifiers that had no part in them, "
        "with this mean probability. It does not say that the images look real.\n\n"
        + table(["class", *recognition.TITLES], [[name, *row] for name, row in recognition.rows(told).items()])
    )


def _compliance(drawn: SyntheticSet, run: RunFolder, audit: AuditRecord | None) -> str:
    level = highest(run.rounds())
    told = [
        f"Each hospital's images stayed there. While training, what left them revealed at most {level} "
        f"({meaning(level)}). No differential privacy was used: no bound on what weights or images give away is proven."
    ]
    if whole := _left_whole(drawn):
        told.append(
            f"Then its whole {whole} left every hospital that has one of its own: no mean over hospitals hid what it "
            "knows by heart."
        )
    if audit is None:
        return "\n\n".join([*told, "**Nobody has held this set against the hospitals' images.**"])
    columns = {
        "trained": "trained on", "held_out": "held out", "copies_by_pixels": "copies by pixels",
        "copies_by_features": "copies by features", "auc": "membership AUC", "tpr": "recognised at 1 %",
    }  # fmt: skip
    rows = [[site, *(figure(found.get(key)) for key in columns)] for site, found in audit.sites.items()]
    told.append(
        "Every hospital held the set against its own images, those trained on and those held out: copies are images "
        "nearer to a trained one than other patients' ever are; membership AUC is how well the set tells trained from "
        "held-out images (0.5 is guessing). A dash: too few images to say. These answers say of single images whether "
        "they are a patient's (FEATURES); each hospital counts them. audit.json names the set, its generator and the "
        "hospitals' images by digests; it carries no signature, so trust it as far as whom you have it from."
    )
    told.append(table(["site", *columns.values()], rows))
    if audit.left_out:
        told.append(f"{len(audit.left_out)} drawn images were left out as copies; the figures are of the rest.")
    if audit.encoder is None:
        told.append("Copies were looked for by pixels alone: no encoder was given.")
    told.append("Copies that this search may miss:\n\n" + _items(NOT_LOOKED_FOR))
    if audit.safe.not_measured:
        told.append("Not measured, since too few images were held out:\n\n" + _items(audit.safe.not_measured))
    if audit.safe.because:
        told.append("**Released by force. What stood against it:**\n\n" + _items(audit.safe.because))
    return "\n\n".join(told)


def _items(texts: Iterable[str]) -> str:
    return "\n".join(f"- {plain(text)}" for text in texts)


def _left_whole(drawn: SyntheticSet) -> str | None:
    """What left each site by itself: where its images are its own, inverted at the site, nothing did."""
    if "generators" in drawn.settings:
        return "generator"
    together = "classifiers" in drawn.settings and not drawn.settings["sites"]
    return "classifier" if together and "" not in drawn.settings["classifiers"] else None


def _comprehension(drawn: SyntheticSet, run: RunFolder) -> str:
    unsaid = (
        "data",
        "classes",
        "sites",
        "generators",
        "classifiers",
        NOTE,
        RECOGNITION,
    )  # one digest stands for all
    settings = {k: v for k, v in drawn.settings.items() if k not in unsaid}
    asked = ", ".join(f"{k} {_short(v) if k == 'generator' else v}" for k, v in settings.items())
    masks = any(image.mask for image in drawn.images)
    use = _USE.format(models="segmenters" if masks else "classifiers") + (f" {_MASKS}" if masks else "")
    return f"Drawn with: {plain(asked)}.\n\n{fenced(shorten_recipe(run.recipe).strip(), 'yaml')}\n\n{use}"


def _consistency(about: Mapping[str, Any], audit: AuditRecord | None) -> str:
    found = audit.sites if audit else {}
    rows = [
        [site, str(n["train"]), *(figure(found.get(site, {}).get(k)) for k in ("kid", "held_out_kid"))]
        for site, n in about["sites"].items()
    ]
    return (
        "Kernel distance (KID) of the images that imitate a site to that site's trained ones, and of its held-out "
        "ones.\n\n" + table(["site", "trained on", "drawn", "held out"], rows)
    )


def _short(digest: str | None) -> str:
    return (digest or "")[:12]
