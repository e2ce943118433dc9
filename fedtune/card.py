"""The card of a fine-tuned model: what it tells, from what it learned, how well it does at each site, its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fedcore.report.markdown import plain, table
from fedcore.report.model_card import LICENCE, USE, Record, data_sent, environment, head, recipe_of
from fedcore.report.naming import start_name
from fedcore.report.units import measured_on, metric_name
from fedcore.runs.folder import RunFolder
from fedtune.evaluation.scores_file import outward


def card(run: RunFolder, module: nn.Module, scores: Record, owners: Sequence[str] = ()) -> str:
    """Markdown; `scores` as scores.json has them, `owners` the sites that have a part of the model to themselves."""
    about = run.about()
    segments = about["command"] == "segment"
    own = ["network", "segmenter"] if segments else ["encoder", "classifier"]
    parts = [
        head("segmentation" if segments else "classification"), _what(about, module, scores, segments),
        _use(about, segments, owners), _scores(about, scores, owners), data_sent(run), recipe_of(run, own),
        environment(run, about), LICENCE, USE,
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(about: Record, module: nn.Module, scores: Record, segments: bool) -> str:
    sites, pixels = len(about["sites"]), " x ".join(map(str, about["size"]))
    numbers = [str(number) for number in range(1, about.get("structures", 1))]
    tells = f"structure {', '.join(numbers)} from background" if segments else plain(", ".join(about["classes"]))
    start = plain(start_name(scores.get("encoder")))
    count = sum(p.numel() for p in module.parameters())
    prepared = "".join(
        f" Note: {plain(note)}." for note in about.get("notes", ()) if note.startswith("the encoder was")
    )
    carried = f" {about['carried']:.0%} of the parameters came with that encoder." if about.get("carried") else ""
    return f"""# {"Segmenter" if segments else "Classifier"} trained by {sites} sites together

Tells {tells}. {count:,} parameters, fine-tuned from {start} for {about["rounds"]} rounds on
images of {pixels} pixels in [-1, 1], with {scores["label_fraction"]:.0%} of the labels.{carried}{prepared}"""


def _use(about: Record, segments: bool, owners: Sequence[str]) -> str:
    kind, made = ("segmenter", "masks") if segments else ("classifier", "probabilities")
    site = f" --site {owners[0]}" if owners else ""
    return f"""```bash
fedpretrain predict RUN IMAGES OUT{site}             # RUN is the folder above; {made}
fedpretrain export RUN --to onnx{site}               # {kind}.onnx, for ONNX Runtime
```"""


def _scores(about: Record, scores: Record, owners: Sequence[str]) -> str:
    pooled: dict[str, Any] = {k: v for k, v in scores["pooled"].items() if isinstance(v, dict) and "value" in v}
    names = list(pooled)[:6]
    trained = about["labelled"] | {"all": sum(about["labelled"].values())}
    rows = [
        [site, str(trained.get(site, 0)), str(found["images"]), *(_cell(found.get(name)) for name in names)]
        for site, found in (scores["sites"] | {"all": scores["pooled"]}).items()
    ]
    unit, grid = scores.get("unit", ""), scores.get("grid", "")
    titles = ["site", "training images", "test images", *(metric_name(name, unit) for name in names)]
    where = f" Masks were {measured_on(grid)}." if grid else ""
    own = " Each site is measured by its own model, which `--site SITE` takes; the tensors beside this card are shared."
    where += own if owners else ""
    notes = "".join(f" {site}: {row['note']}." for site, row in scores["sites"].items() if row.get("note"))
    return f"""## How well it does

In brackets 95 % intervals over patients.{where}{notes}

{table(titles, rows)}"""


def _cell(score: Record | None) -> str:
    if not score or score.get("value") is None:
        return "-"
    ends = "" if score.get("low") is None else " ({:.2f}-{:.2f})".format(*outward(score["low"], score["high"]))
    return f"{score['value']:.3f}{ends}"
