"""The loader of a site's images in batches, with the images that are mixed into them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fedcore.data.dataset import AddedImages, Images, Target

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
) -> DataLoader[Batch] | Prefetcher:
    """Batches of pixels (b, c, *space) in float32, or tuples of them and the requested targets.

    Without workers: a batch is one read of a memory-mapped array, which is cheaper than starting a process. There is
    at least one batch, whatever the size of the site: `drop_last` drops an incomplete batch only after a full one.
    While shuffling (training), a last batch of one image is dropped too, since batch norm cannot use it, and new
    `images.added` are appended to each batch.

    Args:
        images: Of one split; at least one.
        batch_size: Images per batch.
        shuffle: A new order for each pass, drawn from `generator`, or from torch's fixed first seed.
        drop_last: Drop an incomplete last batch if it is not the only one.
        targets: Return labels (class indices), findings, masks or positions too, one or several.
        generator: The only source of the order.
        device: Where the batches are returned; for a GPU they are read ahead.
    """
    generator = generator or torch.Generator()
    batches = BatchSampler(len(images), batch_size, shuffle=shuffle, drop_last=drop_last, generator=generator)
    prefetch = device.type != "cpu"
    own = _Batched(images, targets, half=prefetch)
    dataset = _Mixed(own, images.added, generator) if shuffle and images.added else own
    read = DataLoader(dataset, sampler=batches, batch_size=None, generator=generator)
    return Prefetcher(read, device) if prefetch else read


@dataclass(frozen=True)
class Prefetcher:
    """Batches on a device; a thread reads the next one while the current one is in use.

    They are copied as stored (float16), from pinned memory, and become float32 on the device.
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


class BatchSampler(Sampler[Tensor]):
    """Index tensors of one pass over `count` images."""

    def __init__(self, count: int, size: int, *, shuffle: bool, drop_last: bool, generator: torch.Generator):
        self.count, self.size, self.shuffle, self.generator = count, size, shuffle, generator
        self.min_size = size if drop_last else 2 if shuffle else 1

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self.count, generator=self.generator) if self.shuffle else torch.arange(self.count)
        for batch in range(len(self)):
            yield order[batch * self.size : (batch + 1) * self.size]

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.size)
        return full + (rest >= self.min_size or (rest > 0 and full == 0))


class _Batched(Dataset[Batch]):
    """A data set whose items are whole batches, so that one read serves a batch."""

    def __init__(self, images: Images, targets: Target | Sequence[Target] | None, half: bool = False):
        self.images, self.half = images, half
        self.targets: Sequence[Any] = (targets,) if isinstance(targets, str) else targets or ()

    def __getitem__(self, indices: Tensor) -> Batch:
        pixels, *targets = self.parts(indices)
        return (pixels, *targets) if targets else pixels

    def parts(self, indices: Tensor) -> tuple[Tensor, ...]:
        """Pixels and targets."""
        pixels = self.images.half_batch(indices) if self.half else self.images.batch(indices)
        return pixels, *(self.images.targets(what, indices) for what in self.targets)


class _Mixed(Dataset[Batch]):
    """Batches with added images, or of added images alone."""

    def __init__(self, own: _Batched, added: AddedImages, generator: torch.Generator):
        self.own, self.added, self.generator = own, added, generator
        self.extra = _Batched(added.images, own.targets, own.half)

    @property
    def images(self) -> Images:
        return self.own.images

    def __getitem__(self, indices: Tensor) -> Batch:
        count = self.added.count_for(len(indices))
        chosen = torch.randint(len(self.added.images), (count,), generator=self.generator)
        parts = self.extra.parts(chosen)
        if not self.added.replace_own:
            parts = tuple(torch.cat(pair) for pair in zip(self.own.parts(indices), parts, strict=True))
        pixels, *targets = parts
        return (pixels, *targets) if targets else pixels
