"""The card of an encoder: what it is, what it learned from and how, what left the sites, what is still to decide.

Markdown under a YAML head. Everything comes from the run's own record; what that lacks is
left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedcore.report.markdown import plain, table
from fedcore.report.model_card import LICENCE, USE, Record, data_sent, environment, head, recipe_of
from fedcore.runs.folder import RunFolder
from fedssl.evaluation.probe import SHARED
from fedssl.methods.base import Method

_SCORES = {"knn": "kNN", "linear": "linear probe", "feature_std": "spread", "effective_rank": "effective rank"}


def card(run: RunFolder, module: Method, site: str | None = None, alone: bool = False) -> str:
    """Markdown; `site` for an encoder that is one site's own, `alone` if no other site had a part in it."""
    about, rounds = run.about(), run.rounds()
    sites = {site: about["sites"][site]} if site and alone else about["sites"]
    parts = [
        _head(module), _what(about, rounds, module, sites, site, alone), _load(module),
        _learned(sites, rounds, site),
        data_sent(run), recipe_of(run, ["method"]), environment(run, about), LICENCE, USE,
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(module: Method) -> str:
    return head("self-supervised-learning", type(module).__name__.lower(), type(module.encoder).__name__.lower())


def _what(about: Record, rounds: Sequence[Record], module: Method, sites: Record, site: str | None, alone: bool) -> str:
    name = plain(site or "")
    how = f"by {name} alone" if alone else f"by {len(sites)} sites together" + (f", as {name} has it" if site else "")
    config = ", ".join(f"{k}={v}" for k, v in module.encoder.config.items())
    pixels = " x ".join(map(str, about["size"]))
    return f"""# Encoder pretrained {how}

{type(module.encoder).__name__}({config}), {sum(p.numel() for p in module.encoder.parameters()):,} parameters
(the report counts those of the method's heads too), pretrained with {type(module).__name__} for {len(rounds)} rounds on
images of {pixels} pixels in [-1, 1]."""


def _load(module: Method) -> str:
    return f"""```python
from pathlib import Path

from fedcore.models.encoder_store import build_encoder

encoder = build_encoder(Path("encoder"))  # in evaluation mode; encoder(images) is (n, {module.encoder.width})
```

`fedpretrain finetune RECIPE --start FOLDER` starts from it. `fedpretrain export FOLDER --to monai` (or `timm`,
`torchvision`) writes it for plain models of these libraries, where they have its network."""


def _learned(sites: Record, rounds: Sequence[Record], site: str | None) -> str:
    """`site`: whose own the encoder is; others measured theirs."""
    scores = {name: _last_scores(rounds, name, site) if site in (None, name) else {} for name in sites}
    shown = {key: title for key, title in _SCORES.items() if any(key in found for found in scores.values())}
    titles = ["site", "training images", "test images (never trained on)", *shown.values()]
    rows = [
        [name, str(n["train"]), str(n["test"]), *(_decimal(scores[name].get(key)) for key in shown)]
        for name, n in sites.items()
    ]
    told = (
        "\n\nScores are those of the last survey. kNN is the part of a site's test images whose class the nearest\n"
        "training images there name. A spread near 0 or an effective rank near 1 is collapse."
    )
    return f"## What it learned from\n\n{table(titles, rows)}{told if shown else ''}"


def _last_scores(rounds: Sequence[Record], at: str, site: str | None) -> Mapping[str, float]:
    """At one site, of its own encoder or, `site` being None, of the federation's."""
    surveys = (r["survey"][at] for r in reversed(rounds) if at in r.get("survey", {}))
    found: Mapping[str, float] = next(surveys, {})
    shared = {name.removeprefix(SHARED): value for name, value in found.items() if name.startswith(SHARED)}
    return shared if shared and site is None else found


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
