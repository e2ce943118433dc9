from __future__ import annotations

from collections.abc import Callable
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedcore.augment.views import Views
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.models.vit import ViT
from fedssl.methods.dino import DINO, DINOHead

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
