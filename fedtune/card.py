"""The model card of a fine-tuned model: its classes, training data, scores at each site, and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fedcore.report.markdown import plain, table
from fedcore.report.model_card import LICENCE, USE, Record, data_sent, environment, head, recipe_of
from fedcore.report.naming import start_name
from fedcore.report.units import measured_on, metric_name
from fedcore.runs.folder import RunFolder
from fedtune.evaluation.scores_file import round_outward


def card(run: RunFolder, module: nn.Module, scores: Record, personal_sites: Sequence[str] = ()) -> str:
    """The card in Markdown.

    Args:
        run: Folder of the run.
        module: The trained model.
        scores: Content of scores.json.
        personal_sites: Sites with a part of the model of their own.
    """
    about = run.about()
    segments = about["command"] == "segment"
    keys = ["network", "segmenter"] if segments else ["encoder", "classifier"]
    parts = [
        head("segmentation" if segments else "classification"), _summary(about, module, scores, segments),
        _commands(segments, personal_sites), _scores(about, scores, personal_sites), data_sent(run),
        recipe_of(run, keys),
        environment(run, about), LICENCE, USE,
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(about: Record, module: nn.Module, scores: Record, segments: bool) -> str:
    sites, pixels = len(about["sites"]), " x ".join(map(str, about["size"]))
    structures = ", ".join(map(str, range(1, about.get("mask_classes", 1))))
    task = (
        f"Segments structure {structures} (class numbers of the masks; 0 is background)."
        if segments
        else f"Classes: {plain(', '.join(about['classes']))}."
    )
    start = plain(start_name(scores.get("pretrained")))
    count = sum(p.numel() for p in module.parameters())
    preprocessing = "".join(
        f" Note: {plain(note)}." for note in about.get("notes", ()) if note.startswith("the encoder was")
    )
    fraction = about.get("pretrained_fraction")
    pretrained = f" {fraction:.0%} of the parameters are pretrained." if fraction else ""
    return f"""# {"Segmenter" if segments else "Classifier"} trained at {sites} sites

{task} {count:,} parameters, fine-tuned from {start} for {about["rounds"]} rounds on
images of {pixels} pixels in [-1, 1], with {scores["label_fraction"]:.0%} of the labels.{pretrained}{preprocessing}"""


def _commands(segments: bool, personal_sites: Sequence[str]) -> str:
    kind, output = ("segmenter", "masks") if segments else ("classifier", "probabilities")
    site = f" --site {personal_sites[0]}" if personal_sites else ""
    return f"""```bash
fedpretrain predict RUN IMAGES OUT{site}             # RUN is the folder above; {output}
fedpretrain export RUN --to onnx{site}               # {kind}.onnx, for ONNX Runtime
```"""


def _scores(about: Record, scores: Record, personal_sites: Sequence[str]) -> str:
    pooled: dict[str, Any] = {k: v for k, v in scores["pooled"].items() if isinstance(v, dict) and "value" in v}
    names = list(pooled)[:6]
    labelled = about["labelled_images"] | {"all": sum(about["labelled_images"].values())}
    rows = [
        [site, str(labelled.get(site, 0)), str(row["images"]), *(_format_score(row.get(name)) for name in names)]
        for site, row in (scores["sites"] | {"all": scores["pooled"]}).items()
    ]
    unit, grid = scores.get("distance_unit", ""), scores.get("grid", "")
    titles = ["site", "training images", "test images", *(metric_name(name, unit) for name in names)]
    remarks = f" Masks were {measured_on(grid)}." if grid else ""
    personal = " Each site is scored with its own model (`--site SITE`); the weights next to this card are shared."
    remarks += personal if personal_sites else ""
    notes = "".join(f" {site}: {row['note']}." for site, row in scores["sites"].items() if row.get("note"))
    return f"""## Scores

In brackets: 95 % intervals over patients.{remarks}{notes}

{table(titles, rows)}"""


def _format_score(score: Record | None) -> str:
    if not score or score.get("value") is None:
        return "-"
    ends = "" if score.get("low") is None else " ({:.2f}-{:.2f})".format(*round_outward(score["low"], score["high"]))
    return f"{score['value']:.3f}{ends}"
