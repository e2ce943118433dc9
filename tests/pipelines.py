"""Pipelines that train within seconds."""

from __future__ import annotations

from pathlib import Path

import yaml

STEM = {"class_path": "fedcore.models.resnet.ResNet", "init_args": {"depth": 10, "stem": 8}}
SHORT = {"rounds.count": 1, "visit.max_steps": 2, "visit.precision": "32-true", "data.size": 32}
SMALL = {
    "pretrain": {"encoder": STEM},
    "finetune": {"encoder": STEM, "policy.min_patients": 1},
    "segment": {
        "network.init_args.encoder": STEM,
        "network.init_args.decoder_channels": [8] * 5,
        "policy.min_patients": 1,
    },
    "generate train": {"generator.init_args.network.init_args.widths": [8, 16]},
}
"""Options by command of a step."""


def make_small(pipeline: Path) -> None:
    """Rewrites the file: small networks, few images, and half of the labels instead of several fractions."""
    tree = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    tree["shared"] |= {"data.phantom.images_per_site": 80}
    for step in tree["steps"].values():
        step |= next((SHORT | small for command, small in SMALL.items() if step["do"].startswith(command)), {})
        if "label_fraction" in step.get("each", {}):
            step["each"] = {"label_fraction": [0.5]}
        step |= {"count": 24, "steps": 2} if "sample" in step["do"] else {}
        step |= {"allow_not_useful": True} if "release" in step["do"] else {}
    pipeline.write_text(yaml.safe_dump(tree, sort_keys=False))
