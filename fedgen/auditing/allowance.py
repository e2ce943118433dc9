"""How many audits a site answers: it counts them in its own audit file before it answers one.

An audit says of each image shown whether it copies a training image. So somebody who shows the images of a patient
learns whether the site trained on them; a limit on the number of audits is what bounds that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.errors import Refused
from fedcore.files.reading import parse_json, read_utf8
from fedcore.files.writing import append
from fedcore.messages.message import Contribution, Reveals, flatten
from fedcore.report.read.reader import SET_AUDITS
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.auditing.audit import Audit, Finding, Shown

WHAT = "audit of a set"
FILE = "audit.jsonl"


@dataclass(frozen=True)
class Allowance:
    """`audit`, asked of sites that count. The same images shown with the same encoder are the same question: it tells
    nothing new and is counted once."""

    audit: Audit
    generator: str
    """Digest of what drew the set."""

    def visit(self, site: Site, down: Shown, local: LocalTrainer, turn: Round) -> Contribution[Finding]:
        """Raises Refused where the site has answered as many audits as its policy allows, or cannot count them."""
        question = _question(down)
        asked = answered(site.folder)
        if question not in {entry.get("question") for entry in asked}:
            if len(asked) >= site.policy.audits:
                raise Refused(
                    f"it has answered {len(asked)} audits of sets of this run and policy.audits allows "
                    f"{site.policy.audits}; each tells whether single images were trained on. Set policy.audits higher "
                    "if the site agrees"
                )
            _note(site, {"set": self.audit.digest, "generator": self.generator, "question": question}, turn)
        return self.audit.visit(site, down, local, turn)


def answered(folder: Path | None) -> list[dict[str, Any]]:
    """The audits in the audit file of a site's folder.

    Raises:
        Refused: There is no folder, or the file cannot be read.
    """
    if folder is None:
        raise Refused("it has no folder to count audits in")
    path = folder / FILE
    try:
        lines = read_utf8(path).splitlines() if path.exists() else []
        return [entry for entry in map(parse_json, lines) if entry.get("what") == WHAT]
    except (OSError, ValueError, AttributeError) as e:
        raise Refused(f"its audit file cannot be read ({type(e).__name__}), so audits cannot be counted") from e


def asked_about(folder: Path, set_digest: str) -> bool:
    """Whether the site of a folder lists an audit of the set."""
    try:
        return any(entry.get("set") == set_digest for entry in answered(folder))
    except Refused:
        return False


def _note(site: Site, entry: dict[str, Any], turn: Round) -> None:
    assert site.folder is not None
    told = {"round": turn.index, "what": WHAT, "field": SET_AUDITS, "reveals": Reveals.FEATURES.name, "bytes": 0}
    append(site.folder / FILE, json.dumps(told | entry) + "\n")


def _question(down: Shown) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(flatten(down).items()):
        if name != "features":  # the encoder's, of the images, to rounding
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
