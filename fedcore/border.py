"""The border of a site: everything that leaves is checked against the policy and written to its audit file.

This runs at the site, before anything is sent, whatever the transport.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedcore.files import append
from fedcore.message import Contribution, Leaf, Reveals, leaves
from fedcore.policy import Policy
from fedcore.site import Round


@dataclass(frozen=True)
class Border:
    """One site's guard. `folder` is the site's own; without one (a test, a benchmark) nothing is written."""

    policy: Policy
    folder: Path | None = None

    def release(self, contribution: Contribution[Any], turn: Round) -> Contribution[Any]:
        """Returns what may leave, after it was checked and audited; raises Refused if it may not."""
        self.policy.check(contribution.message)
        if not self.policy.metrics:
            contribution = dataclasses.replace(contribution, metrics={})
        if self.folder is not None:
            self._append("audit.jsonl", _entries(contribution, turn))
        return contribution

    def note_error(self, error: BaseException, trace: str, turn: Round) -> None:
        """Keeps the whole story of a failed visit at the site; the server learns its kind alone."""
        if self.folder is not None:
            entry = {"round": turn.index, "error": f"{type(error).__name__}: {error}", "trace": trace}
            self._append("errors.jsonl", iter([entry]))

    def _append(self, name: str, entries: Iterator[dict[str, Any]]) -> None:
        assert self.folder is not None
        append(self.folder / name, "".join(json.dumps(entry) + "\n" for entry in entries))


def _entries(contribution: Contribution[Any], turn: Round) -> Iterator[dict[str, Any]]:
    """One line per thing that leaves: small tensors each, the many of a model as one."""
    weights: list[Leaf] = []
    for leaf in leaves(contribution.message):
        if leaf.reveals == Reveals.WEIGHTS:
            weights.append(leaf)
            continue
        yield _entry(turn, "exchange", leaf.name, leaf.reveals, [leaf])
    if weights:
        yield _entry(turn, "weights", "weights", Reveals.WEIGHTS, weights)
    scalars = {"examples": float(contribution.examples), **contribution.metrics}
    yield {"round": turn.index, "what": "metrics", "field": "metrics", "reveals": Reveals.STATISTICS.name,
           "values": {k: round(v, 6) for k, v in scalars.items()}, "bytes": 8 * len(scalars)}  # fmt: skip


def _entry(turn: Round, what: str, field: str, reveals: Reveals, parts: list[Leaf]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for leaf in parts:
        digest.update(leaf.tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    shape = list(parts[0].tensor.shape) if len(parts) == 1 else [sum(leaf.tensor.numel() for leaf in parts)]
    return {
        "round": turn.index, "what": what, "field": field, "reveals": reveals.name, "tensors": len(parts),
        "shape": shape, "dtype": str(parts[0].tensor.dtype).removeprefix("torch."),
        "bytes": sum(leaf.nbytes for leaf in parts), "sha256": digest.hexdigest(),
    }  # fmt: skip
