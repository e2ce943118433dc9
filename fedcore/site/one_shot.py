"""What a site gives away whole: a model that it trained alone, sent once, after the last round."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedcore.messages.message import WEIGHTS, Contribution, Empty, Message, Reveals, Tensors
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import ANSWERS, note
from fedcore.runs.folder import RunFolder
from fedcore.site.site import Round


@dataclass(frozen=True)
class Whole(Message):
    """A model of one site.

    WEIGHTS as those of a round, but of a single site: no mean hides it among others, so whatever the model knows by
    heart is this site's. Against that stands that it leaves once, and nobody sees how it moved from round to round.
    """

    tensors: Tensors = field(metadata=WEIGHTS)


def hand_over(run: RunFolder, site: str, tensors: Tensors) -> None:
    """The site's audit file and the run's record note the model; weights, the lowest level, every policy allows."""
    run.require_own()
    about = run.about()
    trained_on = about.get("sites", {}).get(site, {}).get("train", 0)
    rounds = about.get("rounds", 0)
    sent = Contribution(site, Whole(tensors), trained_on)
    left = AuditLog(Policy(Reveals.WEIGHTS), run.site(site)).release(sent, Round(rounds, rounds, 0))
    note(run.path / ANSWERS, "the whole model", site, Empty(), left)
