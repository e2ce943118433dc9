"""`fedpretrain generate invert`: a synthetic set by inverting the classifiers of a finished run.

Do not share the set before its audit: inversion can reproduce images that a classifier was trained on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcore.data.synthetic.synthetic_set import SETTINGS
from fedcore.errors import InputError
from fedcore.files.lock import locked
from fedcore.files.writing import require_writable, write_json
from fedcore.messages.tensors import for_safetensors
from fedcore.runs.progress import Counting
from fedgen.diffusion.sampler import noise_of
from fedgen.generator import Conditions
from fedgen.oneshot.ensemble import Ensemble, TeacherSplit, TrainedClassifiers, teacher_logits
from fedgen.oneshot.inversion import Inversion, has_running_statistics
from fedgen.oneshot.teacher_accuracy import ByClass, TeacherAccuracy
from fedgen.synthetic.image_files import require_encodable
from fedgen.synthetic.synthetic_set import MANIFEST, TEACHER_ACCURACY, SyntheticSet, add, begin, read_settings


def invert(
    run: Path,
    out: Path,
    count: int = 200,
    classes: list[str] | None = None,
    per_site: bool = False,
    inversion: Inversion = Inversion(),
    seed: int = 0,
    batch_size: int = 100,
    resume: bool = False,
) -> Path:
    """Inverts the classifiers of a finished finetune run into a synthetic set and returns its manifest.

    Where a classifier can be held out, set.json holds, class by class, how many of the images it assigns to their class
    and with what probability (fedgen.oneshot.teacher_accuracy).

    Args:
        run: A finished run of `finetune`. Of LocalOnly, or where sites keep a part of it, each site's classifier.
        out: Folder of the set.
        count: Images in all, evenly over classes (and sites).
        classes: Only these; null: all classes of the run.
        per_site: Every site inverts its own classifier, and the images have the style of the site (MediSecFed: images
            leave the site, and no weights; the classifiers of the other sites are held out). Else the server inverts
            all classifiers together (FedISCA: each site's whole classifier leaves it, once).
        inversion: How images are optimised.
        seed: Of noise and rolling. Image i of a seed and batch_size is the same for every count.
        batch_size: Images inverted at once; larger batches match the statistics of the batch norms better.
        resume: Continue the set in `out`, or add images to it.
    """
    if count < 1 or batch_size < 1:
        raise InputError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    if inversion.competition:
        raise InputError("inversion.competition must be 0: invert has no student; generate distil has one")
    trained = TrainedClassifiers.open(Path(run))
    require_batch_norm(trained, inversion)
    plan = _Plan.of(trained, classes, per_site, batch_size)
    require_encodable(trained.image_shape.shape)
    settings = {
        **digests(trained.networks), "data": trained.run.about().get("data"), "classes": list(plan.classes),
        "sites": [s for s in plan.sites if s], "inversion": dataclasses.asdict(inversion), "seed": seed,
        "batch_size": batch_size,
    }  # fmt: skip
    require_writable(Path(out))
    with locked(Path(out)):
        done = begin(Path(out), settings, resume)
        if done < count or TEACHER_ACCURACY not in read_settings(Path(out)):
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            splits = {site: split.to(device) for site, split in trained.splits(per_site, inversion.hold_out).items()}
            with Counting("inverting images", done) as counting:
                for numbers, images in _rounds(trained, splits, plan, inversion, seed, done, count):
                    add(Path(out), numbers, images, [plan.names(i) for i in numbers])
                    counting(numbers.stop, count)
            _write_accuracy(SyntheticSet.open(Path(out)), trained.conditions, splits, plan)
    return Path(out) / MANIFEST


def _write_accuracy(
    synthetic: SyntheticSet, conditions: Conditions, splits: Mapping[str | None, TeacherSplit], plan: _Plan
) -> None:
    """Classifies the images, as their files hold them, with the held-out classifiers, and writes the accuracy."""
    held_out = {site: split.held_out for site, split in splits.items() if split.held_out}
    accuracy: ByClass = {}
    if held_out:
        labels = torch.tensor([conditions.class_index(image.label) for image in synthetic.images])
        split_names = [plan.split(image.number, list(splits)) for image in synthetic.images]
        logits = teacher_logits(held_out, split_names, synthetic.pixels(), plan.batch_size)
        accuracy = TeacherAccuracy.of(logits, labels).by_class(conditions.classes)
    write_json(synthetic.folder / SETTINGS, synthetic.settings | {TEACHER_ACCURACY: accuracy})


@dataclass(frozen=True)
class _Plan:
    """Site and class of each image: sites in turn, then classes. A round is a batch of every site."""

    classes: tuple[str, ...]
    sites: tuple[str | None, ...]
    """None: all together."""
    batch_size: int

    @classmethod
    def of(cls, trained: TrainedClassifiers, classes: list[str] | None, per_site: bool, batch_size: int) -> _Plan:
        """Raises InputError for an unknown class, or where no site has a classifier of its own."""
        conditions = trained.conditions
        for name in classes or ():
            conditions.class_index(name)
        if per_site and not conditions.sites:
            raise InputError(f"{trained.run.path} has one classifier of all sites; remove --per_site")
        return cls(tuple(classes or conditions.classes), conditions.sites if per_site else (None,), batch_size)

    @property
    def round_size(self) -> int:
        return self.batch_size * len(self.sites)

    def names(self, i: int) -> tuple[str, str | None]:
        """Class and site of image i."""
        return self.classes[i // len(self.sites) % len(self.classes)], self.sites[i % len(self.sites)]

    def split(self, i: int, names: Sequence[str | None]) -> str | None:
        """Name of the split that image i comes from: its site, or of all together the next one with every round."""
        site = self.sites[i % len(self.sites)]
        return names[i // self.round_size % len(names)] if site is None else site


def _rounds(
    trained: TrainedClassifiers, splits: Mapping[str | None, TeacherSplit], plan: _Plan, inversion: Inversion,
    seed: int, done: int, count: int,
) -> Iterator[tuple[range, Float[Tensor, "n c *space"]]]:  # fmt: skip
    """The images from `done` to `count`, computed in whole rounds of which the first and the last may be cut."""
    shape, conditions = trained.image_shape.shape, trained.conditions
    for first in range(done - done % plan.round_size, count, plan.round_size):
        synthetic = torch.empty(plan.round_size, *shape)
        for at in range(len(plan.sites)):
            numbers = range(first + at, first + plan.round_size, len(plan.sites))
            labels = torch.tensor([conditions.class_index(plan.names(i)[0]) for i in numbers])
            inverted = splits[plan.split(numbers.start, list(splits))].inverted
            synthetic[at :: len(plan.sites)] = _inverted(inverted, shape, numbers, labels, inversion, seed)
        new = range(max(first, done), min(first + plan.round_size, count))
        yield new, synthetic[new.start - first : new.stop - first]


def _inverted(
    ensemble: Ensemble, shape: tuple[int, ...], numbers: range, labels: Tensor, inversion: Inversion, seed: int
) -> Tensor:
    device = next(ensemble.parameters()).device
    images = noise_of(seed, numbers, shape).to(device)
    for images in inversion.trajectory(ensemble, images, labels.to(device), (seed, numbers.start)):  # noqa: B007, B020
        pass
    return images.cpu()


def require_batch_norm(trained: TrainedClassifiers, inversion: Inversion) -> None:
    """Raises InputError for classifiers without batch norm, unless its weight is 0."""
    if inversion.batch_norm and not all(has_running_statistics(network) for network in trained.networks.values()):
        raise InputError(
            "the classifiers have no batch norm, whose statistics keep images close to real ones; train with such an "
            "encoder (fedcore.models.resnet.ResNet), or set --inversion.batch_norm 0"
        )


def digests(networks: Mapping[str | None, nn.Module]) -> dict[str, object]:
    """The origin of a set: `generator` is one digest of all in `classifiers`; `` is the classifier of all sites."""
    each = {site or "": digest_of_weights(network) for site, network in networks.items()}
    return {"generator": hashlib.sha256("".join(each.values()).encode()).hexdigest(), "classifiers": each}


def digest_of_weights(network: nn.Module) -> str:
    return hashlib.sha256(safetensors.torch.save(for_safetensors(network.state_dict()))).hexdigest()
