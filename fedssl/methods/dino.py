"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv 2104.14294)."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from jaxtyping import Float
from lightly.loss import DINOLoss
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from torch.optim import AdamW

from fedcore.augment.views import Views
from fedcore.models.base import Encoder
from fedcore.site.site import Round
from fedssl.methods.base import Method, OptimizerFactory

GLOBAL = Views(count=2, crop=(0.4, 1.0))
"""The paper's least crop for networks that see local views as well; its code suggests 0.14 without."""


class DINO(Method):
    """A student gives each view the distribution over prototypes that its slow copy gives another view.

    Student and teacher travel, the centre stays. The teacher is an average of students over steps, the server's
    model one over sites, and the two commute: where sites take equally many steps, the averaged teacher is the
    slow average of the averaged student. A teacher that stayed would be as old as its site's last visit.

    The centre is the mean of a site's own teacher outputs: taken away, the targets of each site use all
    prototypes, and none can stand for the site's scanner. The first batch of a visit measures it anew. Both are our
    reading: the paper has one centre, which begins at 0 and has thousands of steps to find its place. In visits of a
    few steps it trailed behind the teacher, and all images chose one prototype before it came.

    The result is the student, on which callbacks and algorithms act, as in every method here; the paper takes the
    teacher, which the saved state holds as well.

    Momentum and temperature change between rounds, not steps, because rounds are what all sites share.
    """

    share = ("encoder.", "head.", "teacher_encoder.", "teacher_head.")

    def __init__(
        self, encoder: Encoder, views: Views = GLOBAL,
        optimizer: OptimizerFactory = lambda p: AdamW(p, lr=3e-4, weight_decay=0.04),
        local: Views | None = None, momentum: float = 0.98,
        student_temperature: float = 0.1, teacher_temperature: tuple[float, float] = (0.04, 0.07), warmup: int = 10,
        center_momentum: float = 0.9, still: int = 1,
        hidden: int = 512, bottleneck: int = 64, dim: int = 256,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image for both networks; at least two views.
            optimizer: Builds the optimizer of a visit. At 2e-3 the features of ResNet-10 fell together within ten
                rounds on brain MRI, at 3e-4 and 5e-4 they did not.
            local: Views of small parts for the student alone, e.g. {count: 4, crop: [0.05, 0.4]}; each costs the
                student a pass, as they keep the image's size, which some encoders need (the paper's are smaller).
            momentum: lambda of the teacher in the first round; it rises to 1 by half a cosine. The paper's
                0.996 is for some hundred thousand steps; within some hundred steps so slow a teacher hardly leaves
                the first weights, and the loss stays at log(dim), which says that targets are still uniform.
            student_temperature: tau_s.
            teacher_temperature: tau_t of the first round and after the warm-up; below tau_s, so targets are sharp.
            warmup: Rounds in which tau_t rises; 0 begins with the last value, which the paper warns of above 0.06.
            center_momentum: m of the centre, a step.
            still: Rounds at the start in which the prototypes do not learn.
            hidden: Width of the head's hidden layers; the paper's 2048 is for encoders of 384 and more.
            bottleneck: Width of a projection; the paper's is 256.
            dim: Number of prototypes, K; the paper's 65,536 is for a million images. Fewer make sharper targets.
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
        self.head = Head(encoder.width, hidden, bottleneck, dim)
        self.teacher_encoder, self.teacher_head = copy.deepcopy(encoder), copy.deepcopy(self.head)
        deactivate_requires_grad(self.teacher_encoder)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(dim, student_temp=student_temperature, center_momentum=center_momentum)
        self.local, self.momentum, self.still = local, momentum, still
        self.teacher_temperature, self.warmup = teacher_temperature, warmup
        self.turn, self.arrived = Round(0, 1, seed=0), True

    def on_visit_start(self, site: str, turn: Round) -> None:
        """Momentum and temperature are those of this round, the centre is measured anew."""
        self.turn, self.arrived = turn, True

    def training_step(self, images: Float[Tensor, "n c *space"], _: int) -> Tensor:
        return self.loss(self.views(images) + (self.local(images) if self.local else []))

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        """Mean cross entropy of each student's view with each other view of the teacher, which sees the first
        `views.count` alone (eq. 3 of the paper)."""
        shared, small = views[: self.views.count], views[self.views.count :]
        targets = self._teach(shared)
        guesses = self._study(shared) + (self._study(small) if small else [])
        if self.arrived:  # nothing of an earlier visit's centre is left
            self.criterion.center.copy_(torch.cat(targets).mean(0))
            self.arrived = False
        # Cosines over tau_t in bf16 would be off by a tenth.
        with torch.autocast(targets[0].device.type, enabled=False):
            loss: Tensor = self.criterion(targets, guesses, teacher_temp=self.tau(self.turn))
        return loss

    def tau(self, turn: Round) -> float:
        """The teacher's temperature in a round."""
        first, last = self.teacher_temperature
        return last + (first - last) * max(0.0, 1 - turn.index / self.warmup) if self.warmup else last

    def slowness(self, turn: Round) -> float:
        """The teacher's momentum in a round."""
        return 1 - (1 - self.momentum) * (1 + math.cos(math.pi * turn.index / turn.count)) / 2

    def on_after_backward(self) -> None:
        """Without its gradient the optimizer leaves the last layer alone, weight decay included."""
        if self.turn.index < self.still:
            self.head.prototypes.weight.grad = None

    def _study(self, views: list[Tensor]) -> list[Tensor]:
        # Views of one kind in one batch, as in the paper: a batch norm that saw both would mix their statistics.
        return list(self.head(self.encoder(torch.cat(views))).chunk(len(views)))

    @torch.no_grad()
    def _teach(self, views: list[Tensor]) -> list[Tensor]:
        # Before a step is after the one before it, which is where the paper has it.
        update_momentum(self.encoder, self.teacher_encoder, self.slowness(self.turn))
        update_momentum(self.head, self.teacher_head, self.slowness(self.turn))
        return list(self.teacher_head(self.teacher_encoder(torch.cat(views))).chunk(len(views)))


class Head(nn.Module):
    """Cosines of a feature with K prototypes, after three layers (appendix C of the paper).

    lightly 1.6's head is built on a weight norm that torch has deprecated and that cannot be copied; here the
    prototypes have unit length by division, the paper's weight norm with its gain held at 1.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, dim: int):
        super().__init__()
        widths = (width, hidden, hidden, bottleneck)
        layers = [nn.Linear(i, o) for i, o in pairwise(widths)]
        for layer in layers:
            # The paper's 0.02 at its width of 2048. In a narrow head 0.02 would make projections so small that
            # the first steps' biases outweigh them and all images project alike.
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.prototypes = nn.Linear(bottleneck, dim, bias=False)

    def forward(self, features: Float[Tensor, "n width"]) -> Float[Tensor, "n dim"]:
        projected = self.layers(features).float()
        with torch.autocast(projected.device.type, enabled=False):
            return linear(normalize(projected, dim=1), normalize(self.prototypes.weight, dim=1))
