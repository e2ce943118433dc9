"""One training step at a site by itself, before a recipe is approved: it shows what would be sent. Nothing is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedcore.algorithms.properties import share_of
from fedcore.algorithms.task import Task
from fedcore.errors import InputError, Refused
from fedcore.messages.message import nbytes
from fedcore.messages.round import Round
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.site.runtime import Workplace
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit

MOST_IMAGES = 1000
"""Images of the trial; an exchange looks at all of them."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one training visit, of one site."""

    down: int
    """What the site receives in the first round; an exchange may send more later."""
    up: int
    error: str = ""
    """Why the trial failed; the bytes are those of the weights alone then."""


def traffic(task: Task, place: Workplace, name: str, policy: Policy) -> Traffic:
    """Of a task whose module is freshly built; it may be trained by this."""
    assert place.local is not None, "a task has a module"
    local = LocalTrainer(place.local.module, share_of(task.algorithm, place.local.module), _one_step(task))
    weights = sum(t.nbytes for t in local.shared().values())
    images = place.train.take(np.arange(min(len(place.train), MOST_IMAGES)))
    site, turn = Site(name, images, policy=policy, log=AuditLog(policy)), Round(0, 1, 0)
    try:
        down = task.algorithm.broadcast(task.algorithm.start(local), name, turn)
        with local.at(site):
            answer = task.algorithm.visit(site, down, local, turn)
    except (InputError, Refused) as e:  # too few images for an exchange, or an algorithm that needs whole epochs
        return Traffic(weights, weights, str(e))
    except Exception as e:  # of the recipe's own code; what it says stays here
        return Traffic(weights, weights, f"{type(e).__name__}: {e}")
    return Traffic(nbytes(down), nbytes(answer.message))


def _one_step(task: Task) -> Visit:
    return replace(task.visit, max_steps=1, max_epochs=1)
