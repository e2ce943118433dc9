"""What a site gives away whole: a model that it trained alone, sent once, after the last round."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedcore.border import Border
from fedcore.message import WEIGHTS, Contribution, Message, Reveals, Tensors
from fedcore.policy import Policy
from fedcore.run import RunFolder
from fedcore.site import Round


@dataclass(frozen=True)
class Whole(Message):
    """A model of one site.

    WEIGHTS as those of a round, but of a single site: no mean hides it among others, so whatever the model knows by
    heart is this site's. Against that stands that it leaves once, and nobody sees how it moved from round to round.
    """

    tensors: Tensors = field(metadata=WEIGHTS)


def hand_over(run: RunFolder, site: str, tensors: Tensors) -> None:
    """The site's audit file notes the model before it leaves; weights, the lowest mark, every policy allows."""
    run.require_own()
    about = run.about()
    trained_on = about.get("sites", {}).get(site, {}).get("train", 0)
    rounds = about.get("rounds", 0)
    Border(Policy(Reveals.WEIGHTS), run.site(site)).release(
        Contribution(site, Whole(tensors), trained_on), Round(rounds, rounds, 0)
    )
