"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv 2104.14294)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from lightly.loss import DINOLoss
from lightly.models.utils import update_momentum
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from torch.optim import AdamW

from fedcore.augment.views import Views
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.momentum_encoder import momentum_copy

GLOBAL_VIEWS = Views(count=2, crop=(0.4, 1.0))
"""The paper's minimum crop scale for training with local views; its code suggests 0.14 without."""


class DINO(Method):
    """The student predicts, for each view, the teacher's distribution over prototypes for another view.

    Student and teacher are sent and averaged, the center stays. The teacher is an average of students over steps, the
    server's model one over sites, and the two commute: where sites take equally many steps, the averaged teacher is
    the moving average of the averaged student. A teacher that stayed would be as old as its site's last visit.

    The center is the mean of a site's own teacher outputs. Subtracting it makes the targets of each site use all
    prototypes, so that no prototype can represent the site's scanner. The first batch of a visit measures it again.
    Both are our reading: the paper has one center, which starts at 0 and has thousands of steps to settle. In visits
    of a few steps it lagged behind the teacher, and all images chose one prototype before it had settled.

    The result is the student, on which callbacks and algorithms act, as in every method here; the paper takes the
    teacher, which the saved state also contains.

    Momentum and temperature change between rounds, not steps, because rounds are common to all sites.
    """

    share = ("encoder.", "head.", "teacher_encoder.", "teacher_head.")
    scratch = ("turn", "center_outdated")

    def __init__(
        self, encoder: Encoder, views: Views = GLOBAL_VIEWS,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=3e-4, weight_decay=0.04),
        local_views: Views | None = None, momentum: float = 0.98,
        student_temperature: float = 0.1, teacher_temperature: tuple[float, float] = (0.04, 0.07),
        temperature_warmup_rounds: int = 10, center_momentum: float = 0.9, freeze_last_layer_rounds: int = 1,
        hidden_dim: int = 512, bottleneck_dim: int = 64, output_dim: int = 256,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image for both networks (global views); at least two.
            optimizer: Builds the optimizer of a visit. At 2e-3 the features of ResNet-10 collapsed within ten
                rounds on brain MRI, at 3e-4 and 5e-4 they did not.
            local_views: Views of small crops for the student alone, e.g. {count: 4, crop: [0.05, 0.4]}; each costs the
                student a forward pass, as they keep the image's size, which some encoders need (the paper's are
                smaller).
            momentum: lambda of the teacher in the first round; it rises to 1 by half a cosine. The paper's
                0.996 is for some hundred thousand steps; within some hundred steps so slow a teacher hardly leaves
                its first weights, and the loss stays at log(output_dim): the targets are still uniform.
            student_temperature: tau_s.
            teacher_temperature: tau_t of the first round and after the warm-up; below tau_s, so targets are sharp.
            temperature_warmup_rounds: Rounds in which tau_t rises; 0 starts with the last value, which the paper warns
                of above 0.06.
            center_momentum: m of the center, per step.
            freeze_last_layer_rounds: Rounds at the start in which the prototypes (the last layer) do not train.
            hidden_dim: Width of the head's hidden layers; the paper's 2048 is for encoders of 384 and more.
            bottleneck_dim: Width of a projection; the paper's is 256.
            output_dim: Number of prototypes, K; the paper's 65,536 is for a million images. Fewer make sharper targets.
        """
        if views.count < 2:
            raise ValueError(f"DINO compares views, so views.count must be at least 2, got {views.count}")
        if not 0 <= momentum <= 1 or not 0 <= center_momentum < 1:
            raise ValueError(
                f"momentum must lie in [0, 1] and center_momentum in [0, 1), got {momentum} and {center_momentum}"
            )
        if not 0 < min(teacher_temperature) <= max(teacher_temperature) < student_temperature:
            raise ValueError(
                "temperatures must hold 0 < teacher_temperature < student_temperature, "
                f"got {teacher_temperature} and {student_temperature}"
            )
        super().__init__(encoder, views, optimizer)
        self.head = DINOHead(encoder.width, hidden_dim, bottleneck_dim, output_dim)
        self.teacher_encoder, self.teacher_head = momentum_copy(encoder), momentum_copy(self.head)
        self.criterion = DINOLoss(output_dim, student_temp=student_temperature, center_momentum=center_momentum)
        self.local_views, self.momentum = local_views, momentum
        self.freeze_last_layer_rounds = freeze_last_layer_rounds
        self.teacher_temperature, self.temperature_warmup_rounds = teacher_temperature, temperature_warmup_rounds
        self.turn, self.center_outdated = Round(0, 1, seed=0), True

    def on_visit_start(self, site: str, turn: Round) -> None:
        """Momentum and temperature follow this round; the first batch measures the center again."""
        self.turn, self.center_outdated = turn, True

    def training_step(self, images: Float[Tensor, "n c *space"], _: int) -> Tensor:
        return self.loss(self.views(images) + (self.local_views(images) if self.local_views else []))

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        """Mean cross entropy of each student view with each other teacher view (eq. 3 of the paper).

        The teacher gets the first `views.count` views alone, the global ones.
        """
        global_views, local_views = views[: self.views.count], views[self.views.count :]
        targets = self._teacher_outputs(global_views)
        predictions = self._student_outputs(global_views) + (self._student_outputs(local_views) if local_views else [])
        if self.center_outdated:
            self.criterion.center.copy_(torch.cat(targets).mean(0))
            self.center_outdated = False
        # In bf16, cosines divided by tau_t would have errors of a tenth.
        with torch.autocast(targets[0].device.type, enabled=False):
            loss: Tensor = self.criterion(targets, predictions, teacher_temp=self.teacher_temperature_at(self.turn))
        return loss

    def teacher_temperature_at(self, turn: Round) -> float:
        """tau_t in a round."""
        first, last = self.teacher_temperature
        warmup = self.temperature_warmup_rounds
        return last + (first - last) * max(0.0, 1 - turn.index / warmup) if warmup else last

    def momentum_at(self, turn: Round) -> float:
        """The teacher's momentum in a round."""
        return 1 - (1 - self.momentum) * (1 + math.cos(math.pi * turn.index / turn.count)) / 2

    def on_after_backward(self) -> None:
        """Without its gradient the optimizer does not change the last layer, not even by weight decay."""
        if self.turn.index < self.freeze_last_layer_rounds:
            self.head.prototypes.weight.grad = None

    def _student_outputs(self, views: list[Tensor]) -> list[Tensor]:
        # Views of one kind in one batch, as in the paper: with both kinds batch norm would mix their statistics.
        return list(self.head(self.encoder(torch.cat(views))).chunk(len(views)))

    @torch.no_grad()
    def _teacher_outputs(self, views: list[Tensor]) -> list[Tensor]:
        # The paper updates the teacher after a step; before the next step is the same.
        update_momentum(self.encoder, self.teacher_encoder, self.momentum_at(self.turn))
        update_momentum(self.head, self.teacher_head, self.momentum_at(self.turn))
        return list(self.teacher_head(self.teacher_encoder(torch.cat(views))).chunk(len(views)))


class DINOHead(nn.Module):
    """Cosines of a feature with K prototypes, after three layers (appendix C of the paper).

    lightly 1.6's head uses a weight norm that torch has deprecated and that cannot be copied; here the prototypes are
    divided by their length, the paper's weight norm with its gain fixed at 1.
    """

    def __init__(self, width: int, hidden_dim: int, bottleneck_dim: int, output_dim: int):
        super().__init__()
        widths = (width, hidden_dim, hidden_dim, bottleneck_dim)
        layers = [nn.Linear(i, o) for i, o in pairwise(widths)]
        for layer in layers:
            # The paper's 0.02 at its width of 2048. In a narrow head 0.02 would make projections so small that the
            # biases of the first steps outweigh them, and all images get the same projection.
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.prototypes = nn.Linear(bottleneck_dim, output_dim, bias=False)

    def forward(self, features: Float[Tensor, "n width"]) -> Float[Tensor, "n dim"]:
        projected = self.layers(features).float()
        with torch.autocast(projected.device.type, enabled=False):
            return linear(normalize(projected, dim=1), normalize(self.prototypes.weight, dim=1))
