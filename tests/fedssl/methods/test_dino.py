from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.augment.views import Views
from fedcore.data.dataset import Images
from fedcore.models.resnet import ResNet
from fedcore.models.vit import ViT
from fedcore.runs.checkpoint import Checkpoint
from fedcore.server.rounds import Rounds
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.methods.dino import DINO, DINOHead
from tests.fedcore.toys import Hospitals, federate, same

STUDENT, TEACHER = {"encoder", "head"}, {"teacher_encoder", "teacher_head"}


def dino(encoder: nn.Module, **more: Any) -> DINO:
    return DINO(encoder, **{"hidden_dim": 8, "bottleneck_dim": 4, "output_dim": 6} | more)  # type: ignore[arg-type]


def views(count: int = 2, n: int = 4) -> list[Tensor]:
    return [torch.randn(n, 1, 8, 8) for _ in range(count)]


def perturbed(module: DINO) -> DINO:
    """Teacher and center differ from their initial values, as after some steps."""
    for p in [*module.teacher_encoder.parameters(), *module.teacher_head.parameters()]:
        p.data.add_(0.3 * torch.randn_like(p))
    module.criterion.center.copy_(0.2 * torch.randn(1, 1, 6))
    module.center_outdated = False
    return module


def softmax(row: list[float]) -> list[float]:
    exps = [exp(x) for x in row]
    return [e / sum(exps) for e in exps]


def equation_3(teacher: list[Tensor], student: list[Tensor], center: Tensor, tau_t: float, tau_s: float) -> float:
    """Caron et al. 2021, eq. 3, number by number: each view of the teacher with each other one of the student."""
    total, pairs = 0.0, 0
    for t, target in enumerate(x.tolist() for x in teacher):
        for s, prediction in enumerate(x.tolist() for x in student):
            if t == s:
                continue
            pairs += 1
            for i in range(len(target)):
                p = softmax([(x - c) / tau_t for x, c in zip(target[i], center.tolist(), strict=True)])
                q = softmax([x / tau_s for x in prediction[i]])
                total -= sum(a * log(b) for a, b in zip(p, q, strict=True)) / len(target)
    return total / pairs


@pytest.mark.parametrize(("local_count", "turn"), [(0, 0), (3, 0), (3, 4), (0, 50)])
def test_the_loss_equals_the_papers_written_as_loops(
    toy: Callable[..., nn.Module], local_count: int, turn: int
) -> None:
    module, batch = dino(toy(norm=False), momentum=1.0), views(2 + local_count)
    module.on_visit_start("a", Round(turn, 100, seed=0))
    perturbed(module)
    center = module.criterion.center.flatten().clone()
    teacher = [module.teacher_head(module.teacher_encoder(v)) for v in batch[:2]]
    student = [module.head(module.encoder(v)) for v in batch]
    tau = 0.04 + 0.03 * min(turn, 10) / 10
    assert module.loss(batch).item() == pytest.approx(equation_3(teacher, student, center, tau, 0.1), rel=1e-4)


def test_the_center_is_the_moving_mean_of_the_teachers_outputs(toy: Callable[..., nn.Module]) -> None:
    module, batch = perturbed(dino(toy(norm=False), momentum=1.0)), views(4)
    before = module.criterion.center.flatten().tolist()
    rows = [row.tolist() for v in batch[:2] for row in module.teacher_head(module.teacher_encoder(v))]
    module.loss(batch)
    expected = [0.9 * old + 0.1 * sum(row[k] for row in rows) / len(rows) for k, old in enumerate(before)]
    assert module.criterion.center.flatten().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert not module.criterion.center.requires_grad


def test_the_first_batch_of_a_visit_measures_the_center(toy: Callable[..., nn.Module]) -> None:
    module, (first, second) = perturbed(dino(toy(norm=False), momentum=1.0)), (views(), views())
    module.on_visit_start("a", Round(3, 9, seed=0))
    means = [module.teacher_head(module.teacher_encoder(torch.cat(pair))).mean(0) for pair in (first, second)]
    module.loss(first)
    torch.testing.assert_close(module.criterion.center.flatten(), means[0])
    module.loss(second)
    torch.testing.assert_close(module.criterion.center.flatten(), 0.9 * means[0] + 0.1 * means[1])


def test_the_targets_of_a_collapsed_teacher_become_uniform(toy: Callable[..., nn.Module]) -> None:
    """Centering undoes a collapse onto one prototype: the targets become uniform."""
    module, batch = perturbed(dino(toy(norm=False), momentum=1.0)), views()
    nn.init.zeros_(module.teacher_encoder.layers[1].weight)
    collapsed = module.teacher_head(module.teacher_encoder(batch[0]))[0]
    student = [module.head(module.encoder(v)) for v in batch]
    uniform = sum(-(s / 0.1).log_softmax(1).mean() for s in student) / 2
    assert not torch.isclose(module.loss(batch), uniform, rtol=1e-3)
    for _ in range(150):
        module.loss(batch)
    torch.testing.assert_close(module.criterion.center.flatten(), collapsed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.loss(batch), uniform, rtol=1e-4, atol=1e-5)
    module.criterion.center.zero_()
    module.on_visit_start("a", Round(0, 1, seed=0))  # the first batch of a visit sets the center at once
    torch.testing.assert_close(module.loss(batch), uniform, rtol=1e-4, atol=1e-5)


def test_the_teacher_is_updated_by_the_formula(toy: Callable[..., nn.Module]) -> None:
    module = perturbed(dino(toy(), momentum=0.9))
    before = {k: p.detach().clone() for k, p in module.named_parameters()}
    module.loss(views())
    for name, p in module.named_parameters():
        if not name.startswith("teacher_"):
            assert torch.equal(p, before[name])
            continue
        student = before[name.removeprefix("teacher_")]
        torch.testing.assert_close(p, 0.9 * before[name] + 0.1 * student)


def test_momentum_rises_and_the_temperature_warms_up_over_the_rounds(toy: Callable[..., nn.Module]) -> None:
    module = dino(toy(), momentum=0.9)
    rounds = [Round(index, 40, seed=0) for index in range(40)]
    momenta, taus = [module.momentum_at(r) for r in rounds], [module.teacher_temperature_at(r) for r in rounds]
    assert momenta == sorted(momenta)
    assert momenta[0] == pytest.approx(0.9)
    assert momenta[20] == pytest.approx(0.95)
    assert momenta[-1] < 1
    assert taus[0] == pytest.approx(0.04)
    assert taus[5] == pytest.approx(0.055)
    assert taus[10:] == pytest.approx([0.07] * 30)
    assert dino(toy(), temperature_warmup_rounds=0).teacher_temperature_at(rounds[0]) == 0.07


def test_the_teacher_gets_no_gradient(toy: Callable[..., nn.Module]) -> None:
    module = perturbed(dino(toy()))
    module.loss(views()).backward()
    assert {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None} == STUDENT
    optimised = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert optimised == {id(p) for k, p in module.named_parameters() if k.split(".")[0] in STUDENT}


def test_the_teacher_gets_no_local_view(toy: Callable[..., nn.Module]) -> None:
    module = perturbed(dino(toy(), local_views=Views(count=3, crop=(0.05, 0.4)), momentum=1.0))
    batches: dict[str, list[int]] = {"student": [], "teacher": []}
    module.encoder.register_forward_hook(lambda *call: batches["student"].append(len(call[1][0])))
    module.teacher_encoder.register_forward_hook(lambda *call: batches["teacher"].append(len(call[1][0])))
    module.training_step(torch.rand(4, 1, 8, 8) * 2 - 1, 0)
    assert batches == {"student": [2 * 4, 3 * 4], "teacher": [2 * 4]}


def test_both_networks_are_sent_and_the_center_stays(toy: Callable[..., nn.Module]) -> None:
    module = dino(toy())
    assert {k.split(".")[0] for k in module.state_dict() if k.startswith(module.share)} == STUDENT | TEACHER
    assert {k for k in module.state_dict() if not k.startswith(module.share)} == {"criterion.center"}


def test_the_head_returns_cosines_with_its_prototypes() -> None:
    head, features = DINOHead(5, 8, 4, 6), torch.randn(3, 5)
    with torch.no_grad():
        projected, cosines = head.layers(features), head(features)
    for i, row in enumerate(projected):
        for k, prototype in enumerate(head.prototypes.weight.detach()):
            cosine = float(row @ prototype / (row.norm() * prototype.norm()))
            assert cosines[i, k].item() == pytest.approx(cosine, abs=1e-5)
    head.prototypes.weight.data *= 7
    torch.testing.assert_close(head(features), cosines)


def federation(
    toy: Callable[..., nn.Module], images: Callable[..., Images], names: str, size: int = 4, **more: Any
) -> Hospitals:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = dino(toy(), **more)
    visit = Visit(batch_size=size, accelerator="cpu", keep_optimizer=True)
    return Hospitals({name: images(name) for name in names}, LocalTrainer(module, module.share, visit))


def test_prototypes_are_frozen_in_the_first_round_alone(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    sites, name = federation(toy, images, "ab"), "head.prototypes.weight"
    initial = FedAvg().start(sites.local)
    states = [initial.tensors]
    federate(FedAvg(), sites, initial, Rounds(2), 0, finished=lambda _, state: states.append(state.tensors))
    assert torch.equal(states[1][name], states[0][name])
    assert not torch.equal(states[2][name], states[1][name])
    assert not torch.equal(states[1]["head.layers.0.weight"], states[0]["head.layers.0.weight"])


def test_the_averaged_teacher_is_the_moving_average_of_the_averaged_student(toy: Callable[..., nn.Module]) -> None:
    """Averages over sites and over steps commute, so averaging teachers is meaningful."""
    sites = [dino(toy(norm=False), momentum=0.8) for _ in range(3)]
    mean = dino(toy(norm=False), momentum=0.8)

    def average(part: str) -> dict[str, Tensor]:
        states = [getattr(module, part).state_dict() for module in sites]
        return {k: torch.stack([state[k] for state in states]).mean(0) for k in states[0]}

    mean.teacher_encoder.load_state_dict(average("teacher_encoder"))
    for _ in range(3):
        for module in sites:
            for p in module.encoder.parameters():
                p.data.add_(torch.randn_like(p))
        mean.encoder.load_state_dict(average("encoder"))
        for module in [*sites, mean]:
            module.loss(views())
    for name, t in average("teacher_encoder").items():
        torch.testing.assert_close(mean.teacher_encoder.state_dict()[name], t)


def test_one_site_equals_central_training(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> None:
    settings: dict[str, Any] = {
        "views": FixedViews(),
        "freeze_last_layer_rounds": 0,
        "temperature_warmup_rounds": 0,
        "momentum": 1.0,
    }
    settings["optimizer"] = lambda p: SGD(p, lr=0.1, momentum=0.9)
    sites = federation(toy, images, "a", 12, **settings)
    alone = federation(toy, images, "a", 12, **settings).local.module
    state = federate(FedAvg(), sites, FedAvg().start(sites.local), Rounds(3), 0)

    optimizer, batch = alone.configure_optimizers(), images("a").batch(range(12))
    for index in range(3):
        alone.on_visit_start("a", Round(index, 3, seed=0))
        optimizer.zero_grad()
        alone.training_step(batch, 0).backward()
        optimizer.step()
    for name, t in state.tensors.items():
        torch.testing.assert_close(t, alone.state_dict()[name], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(sites.memories.get("a")["module/criterion.center"], alone.criterion.center)


class FixedViews(Views):
    """Two views without randomness: the image, and the image darker."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [images, images - 0.3 * images.square()]


def test_a_resumed_run_equals_an_uninterrupted_one_exactly(
    toy: Callable[..., nn.Module], images: Callable[..., Images], tmp_path: Path
) -> None:
    whole = federation(toy, images, "ab")
    expected = federate(FedAvg(), whole, FedAvg().start(whole.local), Rounds(3), 0)
    first = federation(toy, images, "ab")
    first.memories = checkpoint = Checkpoint(tmp_path)
    federate(
        FedAvg(), first, FedAvg().start(first.local), Rounds(3), 0,
        finished=lambda record, state: checkpoint.commit(record.round, state) if record.round < 1 else None,
    )  # fmt: skip
    second = federation(toy, images, "ab")
    second.memories = reopened = Checkpoint.open(tmp_path)
    state = reopened.restore(FedAvg().start(second.local))
    found = federate(
        FedAvg(), second, state, Rounds(3), 0, begin=reopened.rounds,
        finished=lambda record, state: reopened.commit(record.round, state),
    )  # fmt: skip
    assert same(found.tensors, expected.tensors)
    assert any(name.startswith("teacher_encoder.") for name in found.tensors)
    a, b = (whole.memories.get(name) for name in "ab")
    assert not torch.equal(a["module/criterion.center"], b["module/criterion.center"])
    assert all(same(reopened.get(name), memory) for name, memory in (("a", a), ("b", b)))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize("space", [(32, 32), (16, 16, 16)], ids=["2d", "3d"])
def test_it_trains_any_encoder_on_images_in_bf16_and_on_volumes(
    space: tuple[int, ...], kind: str, half: Callable[..., Any]
) -> None:
    dims = len(space)
    encoder = ResNet(dims, depth=10, stem=4) if kind == "resnet" else ViT(dims, patch=8, width=12, depth=1, heads=2)
    module = dino(encoder, local_views=Views(count=1, crop=(0.1, 0.4)))
    with half(space):
        loss = module.training_step(torch.rand(4, 1, *space) * 2 - 1, 0)
    loss.backward()
    assert loss.dtype == torch.float32 == module.criterion.center.dtype
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": Views(count=1)}, r"views\.count must be at least 2, got 1"),
        ({"momentum": 1.1}, r"momentum must lie in \[0, 1\] .* got 1\.1"),
        ({"center_momentum": 1.0}, r"center_momentum in \[0, 1\), got 0\.98 and 1\.0"),
        ({"teacher_temperature": (0.04, 0.1)}, r"0 < teacher_temperature < student_temperature"),
        ({"teacher_temperature": (0.0, 0.04)}, r"0 < teacher_temperature"),
    ],
)
def test_options_out_of_range_are_rejected(
    toy: Callable[..., nn.Module], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dino(toy(), **settings)
