"""A site continues from the visit that counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty
from fedcore.messages.request import EVALUATE, Counted
from fedcore.messages.round import Round
from fedcore.site.memory import MemoryInRam, MemoryOnDisk
from tests.fedcore.federating import same
from tests.fedcore.privacy.test_audit_log import RICH
from tests.fedcore.site.test_runtime import Says, asked, declined, request, site


def test_a_training_goes_on_from_the_visit_that_counts(tmp_path: Path) -> None:
    visitor = Says(Empty())
    runtime = site(memory=MemoryOnDisk(tmp_path), train=visitor)
    asked(runtime, request(turn=Round(0, 9, 0)))
    assert visitor.seen == {}
    asked(runtime, request(turn=Round(1, 9, 0)))
    assert visitor.seen == {}  # round 0 did not count
    asked(runtime, request(turn=Round(2, 9, 0), counted=Counted(1, True)))
    assert visitor.seen == {"own/round": torch.tensor(1)}
    asked(runtime, request(turn=Round(3, 9, 0), counted=Counted(1, True)))
    assert visitor.seen == {"own/round": torch.tensor(1)}  # nor did round 2


def test_a_memory_that_counts_and_is_missing_is_declined(tmp_path: Path) -> None:
    visitor = Says(Empty())
    reason = declined(asked(site(memory=MemoryOnDisk(tmp_path), train=visitor), request(counted=Counted(1, True))))
    assert reason.startswith("it has no record of its visit of round 1, which the server counted; restore the site's")
    assert visitor.seen is None
    assert isinstance(asked(site(train=visitor), request(counted=Counted(1, False))), Contribution)


@pytest.mark.parametrize("said", [ValueError(), Refused("no"), RICH], ids=["error", "refusal", "over the policy"])
def test_a_visit_that_fails_leaves_the_memory_as_it_was(said: Any) -> None:
    memory = MemoryInRam({1: {"own/x": torch.ones(1)}})
    declined(asked(site(memory=memory, train=Says(said)), request(counted=Counted(1, True))))
    assert memory.held.keys() == {1}


def test_an_evaluation_is_forgotten() -> None:
    memory = MemoryInRam({1: {"own/x": torch.ones(1)}})
    answer = asked(site(memory=memory, evaluate=Says(Empty())), request(EVALUATE, counted=Counted(1, True)))
    assert isinstance(answer, Contribution)
    assert not answer.keeps
    assert memory.held.keys() == {1}
    assert same(memory.held[1], {"own/x": torch.ones(1)})
