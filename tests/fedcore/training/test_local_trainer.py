from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.optim import SGD

from fedcore.errors import InputError, Refused
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.site_state import MODULE, OPTIMIZER
from fedcore.training.visit import Visit
from tests.fedcore.federating import same
from tests.fedcore.toys import Toy, broken, images, local

TURN = Round(0, 2, 0)
VISIT = Visit(batch_size=4, accelerator="cpu", keep_optimizer=True)


def test_tensors_under_share_travel_and_the_rest_stays() -> None:
    trainer, site = local(VISIT), Site("a", images())
    with trainer.at(site):
        trainer.fit(site, TURN, {})
    assert {name.split(".")[0] for name in trainer.shared()} == {"layer", "norm"}
    assert {name for name in site.memory if name.startswith(MODULE)} == {"module/seen"}
    assert len([name for name in site.memory if name.startswith(OPTIMIZER)]) == 4  # a momentum for each parameter


def test_a_tensor_that_does_not_travel_never_reaches_another_site() -> None:
    trainer = local()
    a, b = Site("a", images("a", shift=0.5)), Site("b", images("b"))
    for site in (a, b, a):
        with trainer.at(site):
            trainer.fit(site, TURN, {})
    assert a.memory["module/seen"] == pytest.approx(2 * float(a.images.batch(range(12)).sum()), rel=1e-5)
    assert b.memory["module/seen"] == pytest.approx(float(b.images.batch(range(12)).sum()), rel=1e-4)


def test_a_site_at_its_first_visit_has_the_modules_initial_state() -> None:
    trainer, site = local(), Site("a", images())
    with trainer.at(site):
        trainer.module.seen.fill_(5.0)
    with trainer.at(Site("b", images("b"))):
        assert trainer.module.seen == 0.0
    with trainer.at(site):
        assert trainer.module.seen == 5.0


def test_a_refused_visit_does_not_change_the_sites_memory() -> None:
    trainer, site = local(VISIT), Site("a", images())
    with trainer.at(site):
        trainer.fit(site, TURN, {})
    before = {k: t.clone() for k, t in site.memory.items()}
    site.images = broken("a")
    with pytest.raises(Refused, match="the loss became nan; a lower learning rate"), trainer.at(site):
        trainer.fit(site, TURN, {})
    assert same(site.memory, before)


def test_a_weight_that_is_not_finite_is_refused_although_the_loss_is_finite() -> None:
    class Steep(Toy):
        def training_step(self, images: Tensor, _: int) -> Tensor:
            return (self.layer.weight.sum() * 0).sqrt()  # 0, with a gradient of NaN

    trainer = local(Visit(max_steps=1, accelerator="cpu"), module=Steep())
    with pytest.raises(Refused, match=r"layer\.weight is no longer finite"):
        trainer.fit(Site("a", images()), TURN, {})


def test_metrics_are_logged_values_and_reports_of_callbacks() -> None:
    class Thermometer(Callback):
        def report(self) -> dict[str, float]:
            return {"celsius": 21.0}

    site = Site("a", images())
    losses: list[float] = []

    class Spy(Toy):
        def loss(self, images: Tensor) -> Tensor:
            loss = super().loss(images)
            losses.append(float(loss.detach()))
            return loss

    metrics = local(module=Spy()).fit(site, TURN, {}, [Thermometer()])
    assert metrics == {"loss": pytest.approx(np.mean(losses)), "celsius": 21.0}
    assert len(losses) == 3


def test_a_part_in_evaluation_mode_stays_in_it() -> None:
    trainer = local()
    trainer.module.norm.eval()
    with trainer.measuring():
        assert not trainer.module.layer.training
    assert trainer.module.training
    assert trainer.module.layer.training
    assert not trainer.module.norm.training
    trainer.fit(Site("a", images()), TURN, {})
    assert trainer.module.norm.num_batches_tracked == 0


def test_fields_with_the_names_of_methods_are_not_called() -> None:
    module = Toy()
    module.on_visit_start = "by train"

    class Noted(Callback):
        report = 3

    assert local(module=module).fit(Site("a", images()), TURN, {}, [Noted()]).keys() == {"loss"}


def test_a_report_that_is_not_finite_is_refused() -> None:
    class Broken(Callback):
        def report(self) -> dict[str, float]:
            return {"celsius": float("inf")}

    class Declaring(Toy):
        metric_names = ("loss", "celsius")

    for module, text in ((Declaring(), "the celsius became inf"), (Toy(), "a metric became inf")):
        with pytest.raises(Refused, match=text):
            local(module=module).fit(Site("a", images()), TURN, {}, [Broken()])


def test_batches_have_labels_if_the_modules_targets_say_so() -> None:
    class Labelled(Toy):
        targets = "labels"

        def training_step(self, batch: Any, _: int) -> Tensor:
            pixels, labels = batch
            assert pixels.shape == (4, 1, 8, 8)
            assert labels.shape == (4,)
            return self.loss(pixels)

    local(module=Labelled()).fit(Site("a", images()), TURN, {})


def test_what_an_algorithm_stores_at_a_site_is_not_changed() -> None:
    trainer = local()
    site = Site("a", images(), memory={"mine/old": torch.ones(2), "module/seen": torch.ones(())})
    with trainer.at(site):
        site.memory |= {"mine/new": torch.zeros(1)}
        trainer.fit(site, TURN, {})
    assert sorted(site.memory) == ["mine/new", "mine/old", "module/seen"]
    assert not torch.equal(site.memory["module/seen"], torch.ones(()))


def test_on_visit_start_receives_the_site_and_the_round() -> None:
    class Aware(Toy):
        visited: tuple[str, int] | None = None

        def on_visit_start(self, site: str, turn: Round) -> None:
            self.visited = (site, turn.index)

    module = Aware()
    local(module=module).fit(Site("a", images()), Round(1, 2, 0), {})
    assert module.visited == ("a", 1)


def test_the_order_of_images_depends_on_site_and_round() -> None:
    def first(site: str, index: int) -> Tensor:
        class Spy(Toy):
            batches: list[Tensor] = []  # noqa: RUF012

            def loss(self, images: Tensor) -> Tensor:
                self.batches.append(images)
                return super().loss(images)

        local(module=Spy()).fit(Site(site, images("a")), Round(index, 2, 0), {})
        return torch.cat(Spy.batches)

    assert torch.equal(first("a", 0), first("a", 0))
    assert not torch.equal(first("a", 0), first("a", 1))
    assert not torch.equal(first("a", 0), first("b", 0))


def test_a_share_without_tensors_is_an_error() -> None:
    told = r"share names 'encoder\.', but no tensor of Toy .* \['layer\.', 'norm\.', 'seen\.'\]"
    with pytest.raises(InputError, match=told):
        local(share=("layer.", "encoder."))


def test_loading_tensors_of_another_module_is_an_error() -> None:
    trainer = local()
    before = {k: t.clone() for k, t in trainer.module.state_dict().items()}
    with pytest.raises(InputError, match=r"Toy has no tensor 'head\.weight' \(2 in all .*another architecture"):
        trainer.load({"head.weight": torch.zeros(1), "head.zip": torch.zeros(1)})
    with pytest.raises(InputError, match=r"layer\.weight has shape \(3, 1\) in the weights and \(3, 64\) in Toy"):
        trainer.load({"layer.weight": torch.zeros(3, 1)})
    assert same(trainer.module.state_dict(), before)


def test_measuring_trains_nothing_and_restores_the_mode() -> None:
    trainer = local()
    before = {k: t.clone() for k, t in trainer.module.state_dict().items()}
    with trainer.measuring() as device:
        assert device.type == "cpu"
        assert not trainer.module.training
        assert not trainer.module.norm(torch.ones(2, 3)).requires_grad
    assert trainer.module.training
    assert same(trainer.module.state_dict(), before)


def test_only_what_travels_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part, **_: compiled.append(type(part).__name__))
    local()
    assert compiled == []
    local(Visit(accelerator="cpu", compile=True))
    assert compiled == ["Linear", "BatchNorm1d"]
    compiled.clear()
    local(Visit(accelerator="cpu", compile=True), share=("layer.weight",))  # tensor by tensor, as FedBN names them
    assert compiled == ["Linear"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
def test_a_compiled_visit_equals_a_plain_one() -> None:
    plain, other = local(), local(Visit(batch_size=4, accelerator="cpu", compile=True))
    for trainer in (plain, other):
        trainer.fit(Site("a", images()), TURN, {})
        with trainer.measuring():
            trainer.module.layer(torch.ones(3, 64))
    assert plain.shared().keys() == other.shared().keys()
    for name, t in plain.shared().items():
        torch.testing.assert_close(other.shared()[name], t)


def test_a_visit_leaves_no_objects_in_memory() -> None:
    """Without Python's garbage collector, so Trainer and optimizer must be freed by reference counts."""
    trainer, counts = local(Visit(batch_size=4, accelerator="cpu")), []
    site = Site("a", images("a", 8))
    gc.collect()
    gc.freeze()  # skips the million objects that exist already
    gc.disable()
    try:
        for index in range(7):
            with trainer.at(site):
                trainer.fit(site, Round(index, 7, 0), {})
            found = gc.get_objects()
            large = sum(type(each) in (Tensor, nn.Parameter) and each.dim() > 0 for each in found)
            counts.append((large, *(sum(type(each) is kind for each in found) for kind in (Trainer, SGD))))
            del found
    finally:
        gc.enable()
        gc.unfreeze()
    assert len(set(counts[2:])) == 1
    assert counts[-1][1] == 0
