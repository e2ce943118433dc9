"""The first request of a run on a deployment: which sites have approved its recipe."""

from __future__ import annotations

from fedcore.errors import InputErrors
from fedcore.messages.answer import Refusal
from fedcore.messages.proposal import PROPOSE, Proposal, ProposalAnswer
from fedcore.messages.request import Request
from fedcore.messages.round import Round
from fedcore.transport.base import Transport


def require_approved(
    transport: Transport, command: str, recipe: str, digest: str, run: str, may_be_absent: bool
) -> None:
    """Proposes a recipe to every site.

    Args:
        transport: The sites.
        command: Stage that the recipe is for.
        recipe: The shared part of the recipe.
        digest: Of both.
        run: Name of the run.
        may_be_absent: Whether sites that do not answer are no error: of a run that continues.

    Raises:
        InputErrors: Sites have not approved it; each is named. The recipe lies there, ready to be looked at.
    """
    message, missing = Proposal(command, recipe), []
    requests = (Request(name, PROPOSE, message, Round(0, 1, 0), run=run, recipe=digest) for name in transport.names())
    for answer in transport.ask(requests):
        if isinstance(answer, Refusal):
            if not may_be_absent:
                missing.append(f"{answer.site}: {answer.reason}")
        elif not isinstance(answer.message, ProposalAnswer):
            missing.append(f"{answer.site}: it sent no answer to the proposal")
        elif not answer.message.approved:
            missing.append(f"{answer.site} has the recipe and has not approved it")
    if missing:
        raise InputErrors(
            f"sites that do not run recipe {digest[:12]}", missing,
            f"At each of them run: fedpretrain site approve {digest[:12]}. Then start this command again.",
        )  # fmt: skip
