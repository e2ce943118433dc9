"""The model card of an encoder: architecture, training data and recipe, scores, data sent by the sites, licence.

Markdown with a YAML header. All facts come from the run's records; a fact without a record is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedcore.report.markdown import plain, table
from fedcore.report.model_card import LICENCE, USE, Record, data_sent, data_sent_by, environment, head, recipe_of
from fedcore.runs.folder import RunFolder
from fedcore.site.site import Site
from fedssl.evaluation.probe import SHARED
from fedssl.methods.base import Method

_SCORES = {"knn": "kNN", "linear": "linear probe", "feature_std": "feature std", "effective_rank": "effective rank"}


def encoder_card(run: RunFolder, module: Method) -> str:
    """Markdown, of the federation's encoder."""
    about, rounds = run.about(), run.rounds()
    parts = [
        _head(module),
        _description(f"with federated learning at {len(about['sites'])} sites", len(rounds), about["size"], module),
        _usage(module), _training_data(about["sites"], rounds),
        data_sent(run), recipe_of(run, ["method"]), environment(run, about), LICENCE, USE,
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def site_card(site: Site, module: Method, alone: bool) -> str:
    """Markdown, of an encoder that is one site's own, from what that site knows.

    `alone`: no other site had a part in it.
    """
    name = plain(site.name)
    how = f"at {name} only" if alone else f"with federated learning, the version of {name}"
    test = 0 if site.test is None else len(site.test)
    titles = ["site", "training images", "test images (never trained on)"]
    parts = [
        _head(module), _description(how, None, site.images.space, module), _usage(module),
        f"## Training data\n\n{table(titles, [[site.name, str(len(site.images)), str(test)]])}",
        data_sent_by(site.folder), LICENCE, USE,
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _head(module: Method) -> str:
    return head("self-supervised-learning", type(module).__name__.lower(), type(module.encoder).__name__.lower())


def _description(how: str, rounds: int | None, space: Sequence[int], module: Method) -> str:
    config = ", ".join(f"{k}={v}" for k, v in module.encoder.config.items())
    pixels = " x ".join(map(str, space))
    lasted = "" if rounds is None else f" for {rounds} rounds"
    return f"""# Encoder pretrained {how}

{type(module.encoder).__name__}({config}), {sum(p.numel() for p in module.encoder.parameters()):,} parameters
(the report counts those of the method's heads too), pretrained with {type(module).__name__}{lasted} on
images of {pixels} pixels in [-1, 1]."""


def _usage(module: Method) -> str:
    return f"""```python
from pathlib import Path

from fedcore.models.encoder_store import build_encoder

encoder = build_encoder(Path("encoder"))  # in evaluation mode; encoder(images) is (n, {module.encoder.width})
```

`fedpretrain finetune RECIPE --pretrained FOLDER` starts from it. `fedpretrain export FOLDER --to monai` (or `timm`,
`torchvision`) converts it to a model of that library, where the library has this network."""


def _training_data(sites: Record, rounds: Sequence[Record]) -> str:
    scores = {name: _last_scores(rounds, name) for name in sites}
    measured = {key: title for key, title in _SCORES.items() if any(key in row for row in scores.values())}
    titles = ["site", "training images", "test images (never trained on)", *measured.values()]
    rows = [
        [name, str(n["train"]), str(n["test"]), *(_decimal(scores[name].get(key)) for key in measured)]
        for name, n in sites.items()
    ]
    explanation = (
        "\n\nScores are from the last evaluation. kNN: accuracy on a site's test images, classified by the nearest\n"
        "training images of the site. feature std: 0 is collapse, 1 is ideal. effective rank: 1 is collapse."
    )
    return f"## Training data\n\n{table(titles, rows)}{explanation if measured else ''}"


def _last_scores(rounds: Sequence[Record], at: str) -> Mapping[str, float]:
    """At one site, of the federation's encoder."""
    evaluations = (r["evaluation"][at] for r in reversed(rounds) if at in r.get("evaluation", {}))
    found: Mapping[str, float] = next(evaluations, {})
    shared = {name.removeprefix(SHARED): value for name, value in found.items() if name.startswith(SHARED)}
    return shared or found


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
