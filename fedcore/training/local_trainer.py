"""Local training: one resident LightningModule that visits the sites, a fresh quiet Trainer a visit.

The module is built once; a visit copies the site's tensors into it in place. So a round over a
thousand sites holds one model, and a visit costs a few milliseconds beside its training steps.
This file and `fedcore.training.visit`, which builds it, are all that touches Lightning's Trainer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from fedcore.data.loader import loader
from fedcore.errors import InputError, Refused, building
from fedcore.messages.message import Tensors, is_finite
from fedcore.messages.metric_names import is_metric
from fedcore.privacy.buffers import levels_of
from fedcore.seeds import seeded
from fedcore.site.site import Round, Site
from fedcore.training.functional import evaluating
from fedcore.training.mean_loss import MeanLoss
from fedcore.training.optimizer_state import KeepOptimizer
from fedcore.training.optimizers import SCHEDULES, taken_apart
from fedcore.training.unsaved_state import Unsaved
from fedcore.training.visit import ClipFused, Visit, quiet

Network = TypeVar("Network", bound=nn.Module)
MODULE, OPTIMIZER, PERSONAL, OWN = "module/", "optimizer/", "personal/", "own/"
MEASURING = "while measuring, which needs less than training; another process may hold the rest"


class Traveller(Protocol):
    """A module that wants to know where it is (a bank that marks its entries)."""

    def arrive(self, site: str, turn: Round) -> None: ...


class Reporting(Protocol):
    """A callback that measures something of a visit, told to the server among its metrics."""

    def report(self) -> dict[str, float]: ...


def implements(thing: Any, *methods: str) -> bool:
    """Whether it has these methods; a field of the same name is none, though a protocol would take it for one."""
    return all(callable(getattr(thing, name, None)) for name in methods)


class LocalTrainer:
    """Holds the module and lends it to one site after another.

    `share` names the state that travels by prefixes of `state_dict()`; what is left (a feature bank,
    a personal layer) is the site's own: it is put into `site.memory` when the module leaves. A module
    that trains on more than pixels says so in an attribute `targets` (see `fedcore.data.dataset.Target`).
    """

    def __init__(self, module: LightningModule, share: Sequence[str], visit: Visit = Visit()):
        self.module, self.share, self.visit = channels_last(module), tuple(share), visit
        if visit.gradient_clip_val is not None and not module.automatic_optimization:
            raise InputError(
                f"visit.gradient_clip_val must be null for {type(module).__name__}, which steps its optimizers itself"
            )
        state = module.state_dict()
        for prefix in self.share:
            if not any(name.startswith(prefix) for name in state):
                raise InputError(
                    f"share names {prefix!r}, but no tensor of {type(module).__name__} starts with it; "
                    f"it has {sorted({n.split('.')[0] + '.' for n in state})}"
                )
        self.levels = levels_of(module, self._travels)
        """What tensors that travel reveal, where that is more than weights do."""
        self._unsaved = Unsaved(module)
        self._fresh = {k: v.detach().clone() for k, v in state.items() if not self._travels(k)}
        self._optimizer: Tensors = {}
        if visit.compile:
            for name, part in module.named_children():
                if any(self._travels(tensor) for tensor in state if tensor.startswith(f"{name}.")):
                    part.compile(dynamic=False)  # in place: the names of its tensors stay

    def optimizers(self) -> list[Optimizer] | None:
        """Those of a visit, made for a look; None where the module makes them within a visit alone.

        Raises:
            InputError: They cannot be made, or a schedule of rates comes with them.
        """
        try:
            with building(f"the optimizer of {type(self.module).__name__}"):
                made = self.module.configure_optimizers()
        except InputError as e:
            if "attached to a `Trainer`" in str(e):
                return None
            raise
        optimizers, schedules = taken_apart(made)
        if schedules:
            raise InputError(f"{type(self.module).__name__}.configure_optimizers returns {SCHEDULES}")
        return optimizers

    @contextmanager
    def at(self, site: Site) -> Iterator[None]:
        """The module is at `site`: its own tensors are in place, and are kept if the visit succeeds."""
        own = {k.removeprefix(MODULE): v for k, v in site.memory.items() if k.startswith(MODULE)}
        self._unsaved.restore()
        self.load(self._fresh | own)
        self._optimizer = {k.removeprefix(OPTIMIZER): v for k, v in site.memory.items() if k.startswith(OPTIMIZER)}
        yield
        module = {MODULE + k: v for k, v in self._changed().items()}
        optimizer = {OPTIMIZER + k: v for k, v in self._optimizer.items()}
        # What an algorithm itself keeps at the site has another prefix and stays as the visit left it.
        others = {k: v for k, v in site.memory.items() if not k.startswith((MODULE, OPTIMIZER))}
        site.memory = others | module | optimizer

    def reset(self, weights: Tensors) -> None:
        """The module as the server sees it: `weights`, and what belongs to sites as it was at the start."""
        self._unsaved.restore()
        self.load(self._fresh | weights)

    def _changed(self) -> Tensors:
        """Copies of what belongs to the site and is no longer as it was made; a frozen encoder is not kept."""
        state = self.module.state_dict()
        return {k: state[k].detach().clone() for k, fresh in self._fresh.items() if not torch.equal(state[k], fresh)}

    def shared(self) -> Tensors:
        """Copies of the tensors that travel, contiguous, as wire and file want them."""
        state = self.module.state_dict()
        dense = torch.contiguous_format
        return {k: v.detach().clone(memory_format=dense) for k, v in state.items() if self._travels(k)}

    @torch.no_grad()
    def load(self, tensors: Tensors) -> None:
        """Copies `tensors` into the module in place."""
        state = self.module.state_dict()
        if missing := sorted(tensors.keys() - state.keys()):
            raise InputError(
                f"{type(self.module).__name__} has no tensor {missing[0]!r} ({len(missing)} in all are unknown); "
                "the weights were made by another architecture"
            )
        for name, t in tensors.items():
            if state[name].shape != t.shape:
                raise InputError(
                    f"{name} has shape {tuple(t.shape)} in the weights and {tuple(state[name].shape)} in "
                    f"{type(self.module).__name__}; the weights were made by another architecture"
                )
            state[name].copy_(t)

    def fit(self, site: Site, turn: Round, callbacks: Sequence[Callback] = ()) -> dict[str, float]:
        """Trains at `site` and returns the mean loss of the last epoch and what module and callbacks logged.

        Raises:
            Refused: The loss or a weight is no longer finite, the GPU's memory is too small, or a single image is too
                little for batch norm.
        """
        keep = [KeepOptimizer(self._optimizer)] if self.visit.keep_optimizer else []
        if implements(self.module, "arrive"):
            cast(Traveller, self.module).arrive(site.name, turn)
        with seeded(turn.seed_of(site.name)), quiet():
            order = torch.Generator().manual_seed(turn.seed_of(site.name, "order"))
            targets = getattr(self.module, "targets", None)
            batches = loader(site.images, self.visit.batch_size, True, True, targets, order, self.visit.device)
            clip = [ClipFused()] if self.visit.precision == "bf16-mixed" else []
            callbacks = [MeanLoss(), *callbacks, *keep, *clip]
            metrics = self._trained(self.visit.trainer(callbacks), batches)
        for callback in callbacks:
            metrics |= cast(Reporting, callback).report() if implements(callback, "report") else {}
        self._require_finite(metrics)
        return metrics

    def _trained(self, trainer: Trainer, batches: Iterable[Any]) -> dict[str, float]:
        """Fits the module and returns what it logged; of the Trainer nothing is left.

        A Trainer and its parts refer to each other, and Python finds late, after hundreds of visits, that nobody else
        refers to them: until then each would keep the optimizer's state, which is as large as the model or twice.
        """
        try:
            with _gpu_memory(self._smaller()), _single_values():
                trainer.fit(self.module, batches)
            return {k: float(v) for k, v in trainer.callback_metrics.items()}
        finally:
            self.module.trainer = None
            for part in (trainer.strategy, trainer):  # a logged value's metric refers to the strategy, and to itself
                vars(part).clear()

    @contextmanager
    def measuring(self) -> Iterator[torch.device]:
        """The module in evaluation mode, without gradients, on the device the visits use."""
        device = self.visit.device
        self.module.to(device)
        try:
            # Compiled code is for the size and mode of training; another size would be compiled anew.
            eager = torch.compiler.set_stance("force_eager")
            with evaluating(self.module), torch.inference_mode(), eager, _gpu_memory(MEASURING):
                yield device
        finally:
            self.module.cpu()

    def _smaller(self) -> str:
        """What to try where a step did not fit: its memory grows with the batch."""
        batch, mixed = self.visit.batch_size, self.visit.precision != "32-true"
        lighter = "" if mixed else ", or visit.precision bf16-mixed"
        return f"at visit.batch_size {batch}; visit.batch_size {max(1, batch // 2)} may fit{lighter}"

    def _travels(self, name: str) -> bool:
        return name.startswith(self.share)

    def _require_finite(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if not torch.isfinite(torch.tensor(value)):
                what = f"the {name}" if is_metric(name) else "a metric"  # another name may hold anything
                raise Refused(f"{what} became {value}; a lower learning rate or gradient_clip_val may help")
        for name, t in self.module.state_dict().items():
            if not is_finite(t):
                raise Refused(f"{name} is no longer finite; a lower learning rate or gradient_clip_val may help")


def personal(memory: Tensors) -> Tensors:
    """What a site has in place of what travels, by the module's names; where there is any, the site is measured by it.

    That is a model which it trained for itself (PERSONAL: `fedcore.algorithms.ditto`), or else what its last visit
    ended with and its next will begin from (OWN: `fedssl.federation.personalised_start`).
    """
    return {k.removeprefix(prefix): t for prefix in (OWN, PERSONAL) for k, t in memory.items() if k.startswith(prefix)}


def channels_last(module: Network) -> Network:
    """Convolutions read channels last: 1.4 times as fast on a CPU (ResNet-10, 64 x 64), and what tensor cores want."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.dim() in formats:
            # Not `contiguous`: it takes the weights of one input channel for channels last as they are, the first
            # convolution then answers channels first, and the pooling behind it takes seven times as long.
            laid_out = torch.empty_like(parameter, memory_format=formats[parameter.dim()])
            parameter.data = laid_out.copy_(parameter.detach())
    return module


@contextmanager
def _gpu_memory(what: str) -> Iterator[None]:
    """A GPU whose memory is too small becomes a Refused that says `what` was done and what may help."""
    try:
        yield
    except torch.OutOfMemoryError:
        free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
        in_use = f"{(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB in use"
        raise Refused(f"out of GPU memory ({in_use}) {what}") from None


@contextmanager
def _single_values() -> Iterator[None]:
    """Batch norm shown one value alone, as of a site's only image, becomes a Refused that says what may help."""
    try:
        yield
    except ValueError as e:
        if "more than 1 value per channel" not in str(e):
            raise
        raise Refused(
            "batch norm needs more than one value a channel, and the network shrank a batch of one image to one pixel; "
            "give the site more images, raise data.size, or set norm: group where the network has it"
        ) from None
