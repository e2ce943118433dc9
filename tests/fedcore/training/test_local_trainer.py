from __future__ import annotations

import gc
import logging
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.optim import SGD

from fedcore.errors import InputError, Refused
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import MODULE, OPTIMIZER
from fedcore.training.visit import Visit
from tests.fedcore.toys import Toy, broken, images, local, same

TURN = Round(0, 2, 0)
VISIT = Visit(batch_size=4, accelerator="cpu", keep_optimizer=True)


def test_share_names_what_travels_and_the_rest_stays() -> None:
    trainer, site = local(VISIT), Site("a", images())
    with trainer.at(site):
        trainer.fit(site, TURN)
    assert {name.split(".")[0] for name in trainer.shared()} == {"layer", "norm"}
    assert {name for name in site.memory if name.startswith(MODULE)} == {"module/seen"}
    assert len([name for name in site.memory if name.startswith(OPTIMIZER)]) == 4  # a momentum a parameter


def test_what_does_not_travel_never_reaches_another_site() -> None:
    trainer = local()
    a, b = Site("a", images("a", shift=0.5)), Site("b", images("b"))
    for site in (a, b, a):
        with trainer.at(site):
            trainer.fit(site, TURN)
    assert a.memory["module/seen"] == pytest.approx(2 * float(a.images.batch(range(12)).sum()), rel=1e-5)
    assert b.memory["module/seen"] == pytest.approx(float(b.images.batch(range(12)).sum()), rel=1e-4)


def test_a_site_seen_first_finds_the_module_as_it_was_made() -> None:
    trainer, site = local(), Site("a", images())
    with trainer.at(site):
        trainer.module.seen.fill_(5.0)
    with trainer.at(Site("b", images("b"))):
        assert trainer.module.seen == 0.0
    with trainer.at(site):
        assert trainer.module.seen == 5.0


def test_bf16_clips_the_gradients_of_a_fused_optimizer() -> None:
    """One step of SGD at rate 1 moves the weights by the gradient as it was clipped."""
    module = Toy(lambda p: torch.optim.SGD(p, lr=1.0, fused=True))
    visit = Visit(batch_size=12, max_steps=1, accelerator="cpu", precision="bf16-mixed", gradient_clip_val=1e-3)
    trainer, site = local(visit, module), Site("a", images())
    before = torch.cat([p.detach().flatten().clone() for p in module.parameters()])
    with trainer.at(site):
        trainer.fit(site, TURN)
    moved = torch.cat([p.detach().flatten() for p in module.parameters()]) - before
    assert moved.norm() == pytest.approx(1e-3, rel=1e-2)


def test_a_refused_visit_leaves_the_memory_as_it_was() -> None:
    trainer, site = local(VISIT), Site("a", images())
    with trainer.at(site):
        trainer.fit(site, TURN)
    before = {k: t.clone() for k, t in site.memory.items()}
    site.images = broken("a")
    with pytest.raises(Refused, match="the loss became nan; a lower learning rate"), trainer.at(site):
        trainer.fit(site, TURN)
    assert same(site.memory, before)


def test_a_weight_that_is_not_finite_is_refused_where_the_loss_still_is() -> None:
    class Steep(Toy):
        def training_step(self, images: Tensor, _: int) -> Tensor:
            return (self.layer.weight.sum() * 0).sqrt()  # 0, with a gradient of NaN

    trainer = local(Visit(max_steps=1, accelerator="cpu"), module=Steep())
    with pytest.raises(Refused, match=r"layer\.weight is no longer finite"):
        trainer.fit(Site("a", images()), TURN)


def test_metrics_are_what_was_logged_and_what_callbacks_report() -> None:
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

    metrics = local(module=Spy()).fit(site, TURN, [Thermometer()])
    assert metrics == {"loss": pytest.approx(np.mean(losses)), "celsius": 21.0}
    assert len(losses) == 3


class Skipping(Toy):
    """Has no loss for the second batch of an epoch; its batches are dicts, whose first entry holds no images."""

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Any:
        return {"parts": [batch, batch.mean()], "name": "x"}

    def training_step(self, batch: Any, at: int) -> Any:
        return None if at == 1 else self.loss(batch["parts"][0])


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_batch_that_is_skipped_counts_for_nothing() -> None:
    losses: list[float] = []

    class Spy(Skipping):
        def loss(self, images: Tensor) -> Tensor:
            loss = super().loss(images)
            losses.append(loss.item())
            return loss

    metrics = local(module=Spy()).fit(Site("a", images(count=10)), TURN)
    assert len(losses) == 1
    assert metrics == {"loss": pytest.approx(losses[0])}


def test_a_module_that_steps_itself_and_says_nothing_has_no_mean_loss() -> None:
    class Manual(Toy):
        automatic_optimization = False

        def training_step(self, images: Tensor, _: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(images))
            optimizer.step()

    trainer = local(module=Manual())
    before = trainer.shared()
    assert trainer.fit(Site("a", images()), TURN) == {}
    assert not same(trainer.shared(), before)


@pytest.mark.parametrize("pack", [lambda o, s: ([o], [s]), lambda o, s: {"optimizer": o, "lr_scheduler": s}])
def test_rates_that_would_begin_anew_at_each_visit_are_refused(pack: Any) -> None:
    class Scheduled(Toy):
        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), lr=0.1)
            return pack(optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9))

    trainer = local(module=Scheduled())
    with pytest.raises(InputError, match=r"Scheduled.configure_optimizers returns a learning rate schedule.*Cosine"):
        trainer.optimizers()
    with pytest.raises(Refused, match="a learning rate schedule, which would begin anew at each visit"):
        trainer.fit(Site("a", images()), TURN)


def test_optimizers_are_looked_at_before_a_visit() -> None:
    (made,) = local().optimizers() or []
    assert isinstance(made, SGD)
    with pytest.raises(InputError, match="the optimizer of Toy cannot be built: Invalid learning rate"):
        local(module=Toy(lambda p: SGD(p, lr=-1.0))).optimizers()

    class Late(Toy):
        def configure_optimizers(self) -> SGD:
            return SGD(self.parameters(), lr=0.1 / self.trainer.max_epochs)

    assert local(module=Late()).optimizers() is None


def test_a_part_that_was_set_to_evaluate_stays_so() -> None:
    trainer = local()
    trainer.module.norm.eval()
    with trainer.measuring():
        assert not trainer.module.layer.training
    assert trainer.module.training
    assert trainer.module.layer.training
    assert not trainer.module.norm.training
    trainer.fit(Site("a", images()), TURN)
    assert trainer.module.norm.num_batches_tracked == 0


def test_fields_that_are_named_as_methods_are_none() -> None:
    module = Toy()
    module.arrive = "by train"

    class Noted(Callback):
        report = 3

    assert local(module=module).fit(Site("a", images()), TURN, [Noted()]).keys() == {"loss"}


def test_a_report_that_is_not_finite_is_refused() -> None:
    class Broken(Callback):
        def report(self) -> dict[str, float]:
            return {"celsius": float("inf")}

    with pytest.raises(Refused, match="the celsius became inf"):
        local().fit(Site("a", images()), TURN, [Broken()])


@pytest.mark.parametrize(
    ("visit", "steps"),
    [
        ({"batch_size": 4}, 3),
        ({"batch_size": 5}, 2),
        ({"batch_size": 64}, 1),
        ({"batch_size": 4, "max_epochs": 3}, 9),
        ({"batch_size": 4, "max_epochs": 3, "max_steps": 7}, 7),
    ],
)
def test_how_long_a_visit_is(visit: dict[str, Any], steps: int) -> None:
    module = Toy()
    local(Visit(accelerator="cpu", **visit), module).fit(Site("a", images("a", 12)), TURN)
    assert module.norm.num_batches_tracked == steps


def test_batches_come_with_labels_if_asked() -> None:
    class Labelled(Toy):
        targets = "labels"

        def training_step(self, batch: Any, _: int) -> Tensor:
            pixels, labels = batch
            assert pixels.shape == (4, 1, 8, 8)
            assert labels.shape == (4,)
            return self.loss(pixels)

    local(module=Labelled()).fit(Site("a", images()), TURN)


def test_what_an_algorithm_keeps_at_a_site_stays_as_the_visit_left_it() -> None:
    trainer = local()
    site = Site("a", images(), memory={"mine/old": torch.ones(2), "module/seen": torch.ones(())})
    with trainer.at(site):
        site.memory |= {"mine/new": torch.zeros(1)}
        trainer.fit(site, TURN)
    assert sorted(site.memory) == ["mine/new", "mine/old", "module/seen"]
    assert not torch.equal(site.memory["module/seen"], torch.ones(()))


def test_a_module_that_travels_is_told_where_it_is() -> None:
    class Tourist(Toy):
        been: tuple[str, int] | None = None

        def arrive(self, site: str, turn: Round) -> None:
            self.been = (site, turn.index)

    module = Tourist()
    local(module=module).fit(Site("a", images()), Round(1, 2, 0))
    assert module.been == ("a", 1)


def test_the_order_of_images_is_the_sites_and_the_rounds_own() -> None:
    def first(site: str, index: int) -> Tensor:
        class Spy(Toy):
            batches: list[Tensor] = []  # noqa: RUF012

            def loss(self, images: Tensor) -> Tensor:
                self.batches.append(images)
                return super().loss(images)

        local(module=Spy()).fit(Site(site, images("a")), Round(index, 2, 0))
        return torch.cat(Spy.batches)

    assert torch.equal(first("a", 0), first("a", 0))
    assert not torch.equal(first("a", 0), first("a", 1))
    assert not torch.equal(first("a", 0), first("b", 0))


def test_a_visit_leaves_the_callers_random_numbers_and_logging_alone() -> None:
    """Python's generator is looked at in test_seeds: beartype, which checks types in tests, draws from it."""
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    level = logging.getLogger("pytorch_lightning").level
    local().fit(Site("a", images()), TURN)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert logging.getLogger("pytorch_lightning").level == level


def test_a_visit_writes_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    local().fit(Site("a", images()), TURN)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("space", "sound"), [((32, 40), True), ((64, 31), False), ((64, 64, 64), False)])
def test_bf16_on_a_cpu_is_for_pictures_that_are_not_tiny(space: tuple[int, ...], sound: bool) -> None:
    Visit(precision="32-true", accelerator="cpu").require_sound(space)
    told = pytest.raises(InputError, match=rf"these are {' x '.join(map(str, space))}: take 32-true")
    with nullcontext() if sound else told:
        Visit(precision="bf16-mixed", accelerator="cpu").require_sound(space)


def test_a_share_that_names_nothing() -> None:
    told = r"share names 'encoder\.', but no tensor of Toy .* \['layer\.', 'norm\.', 'seen\.'\]"
    with pytest.raises(InputError, match=told):
        local(share=("layer.", "encoder."))


def test_tensors_of_another_module() -> None:
    trainer = local()
    before = {k: t.clone() for k, t in trainer.module.state_dict().items()}
    with pytest.raises(InputError, match=r"Toy has no tensor 'head\.weight' \(2 in all .*another architecture"):
        trainer.load({"head.weight": torch.zeros(1), "head.zip": torch.zeros(1)})
    with pytest.raises(InputError, match=r"layer\.weight has shape \(3, 1\) in the weights and \(3, 64\) in Toy"):
        trainer.load({"layer.weight": torch.zeros(3, 1)})
    assert same(trainer.module.state_dict(), before)


def test_measuring_trains_nothing_and_gives_the_module_back_as_it_was() -> None:
    trainer = local()
    before = {k: t.clone() for k, t in trainer.module.state_dict().items()}
    with trainer.measuring() as device:
        assert device.type == "cpu"
        assert not trainer.module.training
        assert not trainer.module.norm(torch.ones(2, 3)).requires_grad
    assert trainer.module.training
    assert same(trainer.module.state_dict(), before)


def test_a_gpu_asked_for_where_there_is_none_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"visit\.accelerator is gpu, but torch finds no GPU; .* or take auto"):
        Visit(accelerator="gpu")
    assert Visit(accelerator="auto").accelerator == "auto"


class Greedy(Toy):
    def loss(self, images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("Tried to allocate 80.00 GiB")


@pytest.mark.parametrize(
    ("precision", "advice"),
    [("32-true", r"visit\.batch_size 2 may fit, or visit\.precision bf16-mixed"), ("bf16-mixed", r".* 2 may fit$")],
)
def test_a_gpu_too_small_is_told_with_what_may_fit(
    precision: Any, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 24 * 2**30))
    trainer = local(Visit(batch_size=4, accelerator="cpu", precision=precision), Greedy())
    told = r"out of GPU memory \(23\.0 of 24\.0 GiB in use\) at visit\.batch_size 4; " + advice
    with pytest.raises(Refused, match=told):
        trainer.fit(Site("a", images()), TURN)


def test_a_single_image_that_batch_norm_cannot_use_is_told_with_what_may_help() -> None:
    with pytest.raises(Refused, match=r"more than one value a channel.*give the site more images, raise data\.size"):
        local().fit(Site("a", images(count=1)), TURN)


def test_a_gpu_too_small_to_measure_on() -> None:
    with pytest.raises(Refused, match=r"out of GPU memory .* while measuring"), local().measuring():
        raise torch.OutOfMemoryError("Tried to allocate 80.00 GiB")


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
        trainer.fit(Site("a", images()), TURN)
        with trainer.measuring():
            trainer.module.layer(torch.ones(3, 64))
    assert plain.shared().keys() == other.shared().keys()
    for name, t in plain.shared().items():
        torch.testing.assert_close(other.shared()[name], t)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_convolution_of_one_channel_answers_channels_last_too(dims: int) -> None:
    class Convolution(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.layer = (torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d)(1, 4, 3)

    module = Convolution()
    weight = module.layer.weight.detach().clone()
    trainer = local(module=module)
    answer = module.layer(torch.zeros(2, 1, *[8] * dims))
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    assert answer.is_contiguous(memory_format=last)
    assert torch.equal(module.layer.weight, weight)
    assert trainer.shared()["layer.weight"].is_contiguous()


def test_a_visit_leaves_nothing_in_memory() -> None:
    """Without Python's search for cycles, so that the Trainer and the optimizer's state must go by themselves."""
    trainer, counts = local(Visit(batch_size=4, accelerator="cpu")), []
    site = Site("a", images("a", 8))
    gc.collect()
    gc.freeze()  # what is there already, a million objects, is not looked through
    gc.disable()
    try:
        for index in range(7):
            with trainer.at(site):
                trainer.fit(site, Round(index, 7, 0))
            found = gc.get_objects()
            large = sum(type(each) in (Tensor, nn.Parameter) and each.dim() > 0 for each in found)
            counts.append((large, *(sum(type(each) is kind for each in found) for kind in (Trainer, SGD))))
            del found
    finally:
        gc.enable()
        gc.unfreeze()
    assert len(set(counts[2:])) == 1
    assert counts[-1][1] == 0


def test_a_refused_visit_leaves_no_trainer() -> None:
    trainer = local(module=Greedy())
    with pytest.raises(Refused):
        trainer.fit(Site("a", images()), TURN)
    with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
        _ = trainer.module.trainer


@pytest.mark.parametrize("name", ["foo", "tpu", ""])
def test_an_unknown_accelerator_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=rf"visit\.accelerator must be one of auto, cpu, gpu, cuda, mps, got '{name}'"):
        Visit(accelerator=name)
