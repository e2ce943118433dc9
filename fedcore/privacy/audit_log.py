"""The audit log of a site: everything that leaves is checked against the policy and written down.

This runs at the site, before anything is sent, whatever the transport.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedcore.errors import Refused
from fedcore.files.writing import append
from fedcore.messages.answer import Contribution, revealed
from fedcore.messages.message import Leaf, leaves
from fedcore.messages.metric_names import DeclaredMetrics
from fedcore.messages.reveals import Levels, Reveals
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy

AUDIT_LOG = "audit.jsonl"
_SCALAR_BYTES = 8
_TAIL = 1 << 16
"""Bytes at the end of the file, longer than a line."""
_WORTH_THREADS = 1 << 20
"""Bytes; fewer are hashed before threads have started."""


@dataclass(frozen=True)
class AuditLog:
    """What leaves one site: checked against its policy, written to `audit.jsonl` in the site's own folder, then sent.

    Without a folder (a test, a benchmark) nothing is written. "Released" is not "arrived": a line is written before the
    answer is sent, and a visit that is asked again is written again.
    """

    policy: Policy
    folder: Path | None = None
    levels: Levels = field(default_factory=dict)
    """What tensors of the module reveal that are no weights (`fedcore.privacy.buffers`)."""
    metrics: DeclaredMetrics = field(default_factory=DeclaredMetrics)
    """Those that may leave; none unless the recipe's classes declare them."""
    recipe: str = ""
    """Digest of the recipe that the site runs, see `fedcore.site.runtime`."""
    run: str = ""
    """What the server calls the run."""
    request: str = ""
    """What was requested: `train`, `evaluate`, ...; empty until the site has found it in its recipe."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def release(self, contribution: Contribution[Any], turn: Round) -> Contribution[Any]:
        """Returns what may leave, after it was checked and audited; raises Refused if it may not.

        Scalars are rounded to six significant digits, and numbers of images as `policy.counts` says, so that the audit
        file holds exactly what left.
        """
        self.policy.check(contribution.message, self.levels)
        answer = dataclasses.replace(
            contribution,
            examples=self.policy.counted(contribution.examples),
            metrics=passed(contribution.metrics, self.metrics) if self.policy.allows_metrics else {},
            seconds=_rounded(contribution.seconds),
        )
        answer = dataclasses.replace(answer, reveals=revealed(answer, self.levels))
        self._append(AUDIT_LOG, _entries(answer, turn, self.levels))
        return answer

    def note_refusal(self, reason: str, turn: Round) -> None:
        """Audits the sentence that a site sends in place of an answer."""
        sent = len(reason.encode())
        entry = {"round": turn.index, "what": "refusal", "field": "refusal", "reveals": Reveals.WEIGHTS.name,
                 "to": "server", "text": reason, "bytes": sent}  # fmt: skip
        self._append(AUDIT_LOG, iter([entry]))

    def note(self, entry: Mapping[str, Any], turn: Round) -> None:
        """Writes a line about something that is no answer itself, such as an audit that is counted."""
        self._append(AUDIT_LOG, iter([{"round": turn.index, **entry}]))

    def note_error(self, error: BaseException, trace: str, turn: Round) -> None:
        """Keeps the whole story of a failed visit at the site; the server learns its kind alone."""
        text = "\n".join(filter(None, (f"{type(error).__name__}: {error}", getattr(error, "details", ""))))
        entry = {"round": turn.index, "error": text, "trace": trace}
        self._append("errors.jsonl", iter([entry]))

    def _append(self, name: str, entries: Iterator[dict[str, Any]]) -> None:
        if self.folder is None:
            return
        path = self.folder / name
        about = {"time": self.clock().isoformat(timespec="seconds"), "run": self.run, "recipe": self.recipe,
                 "request": self.request}  # fmt: skip
        first = _next_number(path)
        lines = [json.dumps({"seq": first + at} | entry | about) + "\n" for at, entry in enumerate(entries)]
        append(path, "".join(lines))


def _next_number(path: Path) -> int:
    """One more than the number of the last whole line that has one; several processes may write one after another."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = [line for line in file.read().split(b"\n")[:-1] if line]
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):  # a line of another writer has no number
            return int(json.loads(line)["seq"]) + 1
    return 0


def passed(metrics: Mapping[str, float], declared: DeclaredMetrics) -> dict[str, float]:
    """The metrics as they may leave: declared, finite, of six significant digits.

    Raises:
        Refused: One is not as it must be. The text quotes no name, which may hold anything.
    """
    declared.require(metrics)
    if not all(map(math.isfinite, metrics.values())):
        raise Refused("a metric is not finite; omit a metric that cannot be computed")
    return {name: _rounded(value) for name, value in metrics.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _entries(contribution: Contribution[Any], turn: Round, levels: Levels) -> Iterator[dict[str, Any]]:
    """One line per thing that leaves: small tensors each, the many of a model as one."""
    kind = type(contribution.message).__name__
    weights: list[Leaf] = []
    for leaf in leaves(contribution.message, levels=levels):
        if leaf.reveals == Reveals.WEIGHTS:
            weights.append(leaf)
            continue
        what = "weights" if leaf.name.rpartition("/")[2] in levels else "exchange"
        yield _tensors(turn, what, leaf.name, [leaf])
    if weights:
        yield _tensors(turn, "weights", "weights", weights)
    always = {"examples": float(contribution.examples), "seconds": contribution.seconds}
    yield _scalars(turn, kind, "answer", Reveals.WEIGHTS, always)
    if contribution.metrics:
        yield _scalars(turn, kind, "metrics", Reveals.STATISTICS, contribution.metrics)


def _scalars(turn: Round, kind: str, field: str, reveals: Reveals, values: Mapping[str, float]) -> dict[str, Any]:
    return {"round": turn.index, "what": "metrics", "message": kind, "field": field, "to": "server",
            "reveals": reveals.name, "values": dict(values), "bytes": _SCALAR_BYTES * len(values)}  # fmt: skip


def _tensors(turn: Round, what: str, field: str, parts: list[Leaf]) -> dict[str, Any]:
    shape = list(parts[0].tensor.shape) if len(parts) == 1 else [sum(leaf.tensor.numel() for leaf in parts)]
    return {
        "round": turn.index, "what": what, "message": ", ".join(dict.fromkeys(leaf.kind for leaf in parts)),
        "field": field, "to": parts[0].recipients, "reveals": parts[0].reveals.name, "tensors": len(parts),
        "shape": shape, "dtype": str(parts[0].tensor.dtype).removeprefix("torch."),
        "bytes": sum(leaf.nbytes for leaf in parts), "sha256": digest_of([leaf.tensor for leaf in parts]),
    }  # fmt: skip


def digest_of(tensors: Sequence[Tensor]) -> str:
    """SHA-256 of a tensor's numbers; of several tensors over that of each, so that threads can take some at a time."""
    threads = torch.get_num_threads()
    if threads == 1 or sum(t.nbytes for t in tensors) < _WORTH_THREADS:
        digests = [_digest(t) for t in tensors]
    else:
        with ThreadPoolExecutor(threads) as pool:
            digests = list(pool.map(_digest, tensors))
    return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(tensor: Tensor) -> bytes:
    numbers = tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(numbers.data).digest()
