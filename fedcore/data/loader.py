"""The loader that hands out a site's images in batches, and the images that may join them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fedcore.data.dataset import Companions, Images, Target

Batch = Tensor | tuple[Tensor, ...]
CPU = torch.device("cpu")


def loader(
    images: Images,
    batch_size: int,
    shuffle: bool,
    drop_last: bool = False,
    targets: Target | Sequence[Target] | None = None,
    generator: torch.Generator | None = None,
    device: torch.device = CPU,
) -> DataLoader[Batch] | Ahead:
    """Batches of pixels (b, c, *space) in float32, or tuples of them and what is asked for `beside` them.

    No workers: a batch is one read of a mapped array, cheaper than a process's start. Whatever the size of
    the site at least one batch comes: `drop_last` drops an incomplete batch only behind a full one, and while
    shuffling (training) a last batch of one image is dropped too, since batch norm cannot use it. While shuffling,
    new companions of the images join each batch behind them.

    Args:
        images: Of one split; at least one.
        batch_size: Images a batch.
        shuffle: A new order each time; of a generator, else of torch's fixed first seed.
        drop_last: Drop an incomplete last batch if it is not the only one.
        targets: Give labels (class indices), findings, masks or positions too, one or several.
        generator: Its state is the order's only source.
        device: Where the batches are handed out; a GPU's are read ahead.
    """
    generator = generator or torch.Generator()
    batches = Batches(len(images), batch_size, shuffle=shuffle, drop_last=drop_last, generator=generator)
    ahead = device.type != "cpu"
    batched = _Batched(images, targets, half=ahead)
    company = _Accompanied(batched, images.companions, generator) if shuffle and images.companions else batched
    read = DataLoader(company, sampler=batches, batch_size=None, generator=generator)
    return Ahead(read, device) if ahead else read


@dataclass(frozen=True)
class Ahead:
    """Batches on a device, each read by a thread while the one before it is trained on.

    They travel as they are stored, from memory that a GPU reads by itself, and become float32 where they arrive.
    """

    batches: DataLoader[Batch]
    device: torch.device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        source = iter(self.batches)
        with ThreadPoolExecutor(1) as thread:
            reading = thread.submit(self._read, source)
            while parts := reading.result():
                reading = thread.submit(self._read, source)
                pixels, *targets = (part.to(self.device, non_blocking=True) for part in parts)
                yield (pixels.float(), *targets) if targets else pixels.float()

    def _read(self, source: Iterator[Batch]) -> tuple[Tensor, ...]:
        """The parts of the next batch; none at the end."""
        batch = next(source, ())
        parts = (batch,) if isinstance(batch, Tensor) else batch
        return tuple(part.pin_memory() for part in parts) if self.device.type == "cuda" else tuple(parts)


class Batches(Sampler[Tensor]):
    """Index tensors of one pass over `count` images."""

    def __init__(self, count: int, size: int, *, shuffle: bool, drop_last: bool, generator: torch.Generator):
        self.count, self.size, self.shuffle, self.generator = count, size, shuffle, generator
        self.least = size if drop_last else 2 if shuffle else 1

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self.count, generator=self.generator) if self.shuffle else torch.arange(self.count)
        for batch in range(len(self)):
            yield order[batch * self.size : (batch + 1) * self.size]

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.size)
        return full + (rest >= self.least or (rest > 0 and full == 0))


class _Batched(Dataset[Batch]):
    """A data set whose items are whole batches, so that one read serves a batch."""

    def __init__(self, images: Images, targets: Target | Sequence[Target] | None, half: bool = False):
        self.images, self.half = images, half
        self.targets: Sequence[Any] = (targets,) if isinstance(targets, str) else targets or ()

    def __getitem__(self, indices: Tensor) -> Batch:
        pixels, *targets = self.parts(indices)
        return (pixels, *targets) if targets else pixels

    def parts(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Pixels and what is asked for beside them."""
        pixels = self.images.half_batch(indices) if self.half else self.images.batch(indices)
        return pixels, *(self.images.targets(what, indices) for what in self.targets)


class _Accompanied(Dataset[Batch]):
    """Batches that companions join, or whose place they take."""

    def __init__(self, batched: _Batched, companions: Companions, generator: torch.Generator):
        self.batched, self.companions, self.generator = batched, companions, generator
        self.drawn = _Batched(companions.images, batched.targets, batched.half)

    @property
    def images(self) -> Images:
        return self.batched.images

    def __getitem__(self, indices: Tensor) -> Batch:
        count = self.companions.joining(len(indices))
        chosen = torch.randint(len(self.companions.images), (count,), generator=self.generator)
        parts = self.drawn.parts(chosen)
        if not self.companions.alone:
            parts = tuple(torch.cat(pair) for pair in zip(self.batched.parts(indices), parts, strict=True))
        pixels, *targets = parts
        return (pixels, *targets) if targets else pixels
