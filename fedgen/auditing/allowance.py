"""How many audits a site answers. The site counts them in its own audit log before it answers one.

An audit says for each image of the request whether it copies a training image. So a sender who includes the images of
a patient learns whether the site trained on them; a limit on the number of audits bounds that.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.config.shared_recipe import is_digest
from fedcore.errors import Refused
from fedcore.files.reading import parse_json, read_utf8
from fedcore.messages.answer import Contribution
from fedcore.messages.message import flatten
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.privacy.audit_log import AUDIT_LOG
from fedcore.privacy.policy import Policy
from fedcore.report.read.reader import SET_AUDITS
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.auditing.audit import Audit, AuditAnswer, AuditRequest

AUDIT_SET = "audit"
"""The word of the request to audit a set."""
ENTRY = "audit of a set"
"""Marks the lines of an audit log that count audits."""


@dataclass(frozen=True)
class CountedAudit:
    """`audit` at sites that count their audits. The same images, features and encoder are the same request: its answer
    reveals nothing new, and it is counted once."""

    audit: Audit

    @property
    def metric_names(self) -> tuple[str, ...]:
        return self.audit.metric_names

    def visit(self, site: Site, down: AuditRequest, local: LocalTrainer, turn: Round) -> Contribution[AuditAnswer]:
        """Raises Refused where the site has answered as many audits as its policy allows, or cannot count them."""
        if not (is_digest(down.set) and is_digest(down.generator)):
            raise Refused("an audit must name its set and its generator by digests of 64 hexadecimal digits")
        request = _digest(down)
        counted = counted_audits(site.folder)
        if request not in {entry.get("request_sha256") for entry in counted}:
            if len(counted) >= site.policy.audits:
                raise Refused(
                    f"it has answered {len(counted)} audits of sets of this run and policy.audits allows "
                    f"{site.policy.audits}; each audit reveals whether single images were trained on. If the site "
                    "agrees, set policy.audits higher"
                )
            _count(site, {"set": down.set, "generator": down.generator, "request_sha256": request}, turn)
        return self.audit.visit(site, down, local, turn)

    def answer_policy(self, policy: Policy) -> Policy:
        """See `fedcore.algorithms.base.SetsPolicy`."""
        return policy.for_audit()


def counted_audits(folder: Path | None) -> list[dict[str, Any]]:
    """The entries of audits in the audit log in a site's folder.

    Raises:
        Refused: There is no folder, or the log cannot be read.
    """
    if folder is None:
        raise Refused("it has no folder to count audits in")
    path = folder / AUDIT_LOG
    try:
        lines = read_utf8(path).splitlines() if path.exists() else []
        return [entry for entry in map(parse_json, lines) if entry.get("what") == ENTRY]
    except (OSError, ValueError, AttributeError) as e:
        raise Refused(f"its audit log cannot be read ({type(e).__name__}), so audits cannot be counted") from e


def has_audited(folder: Path, set_digest: str) -> bool:
    """Whether the audit log in a site's folder lists an audit of the set."""
    try:
        return any(entry.get("set") == set_digest for entry in counted_audits(folder))
    except Refused:
        return False


def _count(site: Site, entry: dict[str, Any], turn: Round) -> None:
    if site.log.folder != site.folder:
        raise Refused("it has no audit log in its folder to count audits in")
    common = {"what": ENTRY, "field": SET_AUDITS, "reveals": Reveals.FEATURES.name, "to": "server", "bytes": 0}
    site.log.note(common | entry, turn)


def _digest(request: AuditRequest) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(flatten(request).items()):
        if name not in ("set", "generator"):  # names, on which no figure depends
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
