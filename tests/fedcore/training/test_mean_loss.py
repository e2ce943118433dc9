from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from fedcore.messages.round import Round
from fedcore.site.site import Site
from tests.fedcore.federating import same
from tests.fedcore.toys import Toy, images, local

TURN = Round(0, 2, 0)


class Skipping(Toy):
    """Has no loss for the second batch of an epoch; its batches are dicts of lists."""

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Any:
        return {"parts": [batch, batch.mean()], "name": "x"}

    def training_step(self, batch: Any, at: int) -> Any:
        return None if at == 1 else self.loss(batch["parts"][0])


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_skipped_batch_does_not_count() -> None:
    losses: list[float] = []

    class Spy(Skipping):
        def loss(self, images: Tensor) -> Tensor:
            loss = super().loss(images)
            losses.append(loss.item())
            return loss

    metrics = local(module=Spy()).fit(Site("a", images(count=10)), TURN, {})
    assert len(losses) == 1
    assert metrics == {"loss": pytest.approx(losses[0])}


def test_manual_optimization_without_a_logged_loss_has_no_mean_loss() -> None:
    class Manual(Toy):
        automatic_optimization = False

        def training_step(self, images: Tensor, _: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(images))
            optimizer.step()

    trainer = local(module=Manual())
    before = trainer.shared()
    assert trainer.fit(Site("a", images()), TURN, {}) == {}
    assert not same(trainer.shared(), before)
