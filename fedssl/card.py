"""The card of an encoder: what it is, what it learned from, what left the sites."""

from __future__ import annotations

from typing import Any

from fedcore.message import Reveals
from fedcore.run import RunFolder
from fedssl.method import Method


def card(run: RunFolder, module: Method, site: str | None = None) -> str:
    """Markdown; `site` for an encoder that one site trained alone."""
    about, rounds = run.about(), run.rounds()
    sites = {site: about["sites"][site]} if site else about["sites"]
    counts = "\n".join(f"| {name} | {n['train']} | {n['test']} |" for name, n in sites.items())
    how = f"by {site} alone" if site else f"by {len(sites)} sites together"
    config = ", ".join(f"{k}={v}" for k, v in module.encoder.config.items())
    size = " x ".join(map(str, about["size"]))
    return f"""# Encoder pretrained {how}

{type(module.encoder).__name__}({config}), {sum(p.numel() for p in module.encoder.parameters()):,} parameters,
pretrained with {type(module).__name__} for {len(rounds)} rounds on images of {size} pixels in [-1, 1].
Start from it with `fedpretrain finetune RECIPE --start` and this folder, or in Python:
`encoder = fedcore.store.build_encoder(Path("..."))`.

| site | training images | test images (never trained on) |
|---|---|---|
{counts}

What left the sites at most: **{highest(rounds)}**. The `audit.jsonl` of each site lists everything.

Not a medical device. Scores on these sites say little about others; check before use.
"""


def highest(rounds: list[dict[str, Any]]) -> str:
    """The highest revelation of any site in any round."""
    seen = [Reveals[s["reveals"]] for r in rounds for s in r["sites"].values()]
    return max(seen, default=Reveals.WEIGHTS).name
