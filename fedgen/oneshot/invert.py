"""`fedpretrain generate invert`: a set of images that finished classifiers have in mind.

A set is candidates, as any drawn one: inverted images have been seen to bring back what a classifier was trained on.
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
from fedcore.models.weights import for_safetensors
from fedcore.runs.progress import Counting
from fedgen.diffusion.sampler import noise_of
from fedgen.generator import Conditions
from fedgen.oneshot.ensemble import Ensemble, Panel, Tuned, answers
from fedgen.oneshot.inversion import Inversion, remembers
from fedgen.oneshot.teacher_accuracy import Recognition, Told
from fedgen.synthetic.image_files import require_encodable
from fedgen.synthetic.synthetic_set import MANIFEST, RECOGNITION, SyntheticSet, add, begin, read_settings


def invert(
    run: Path,
    out: Path,
    count: int = 200,
    classes: list[str] | None = None,
    each: bool = False,
    inversion: Inversion = Inversion(),
    seed: int = 0,
    batch_size: int = 100,
    resume: bool = False,
) -> Path:
    """Inverts the classifiers of a finished finetune run into a set of images and returns its manifest.

    How many of the images a classifier that had no part in them recognises as their class, and how sure it is, stands
    in set.json, class by class (fedgen.oneshot.teacher_accuracy), where there is one.

    Args:
        run: A finished run of `finetune`; of LocalOnly, or where sites keep a part of it, each site's classifier.
        out: Folder of the set.
        count: Images in all, evenly over classes (and sites).
        classes: Only these; null: all that the classifiers know.
        each: Every site inverts its own classifier, and images imitate the site (MediSecFed: images leave it, and no
            weights; the other sites judge them); else the server inverts all together (FedISCA: each site's whole
            classifier leaves it, once).
        inversion: How images are moved.
        seed: Of noise and rolling; image i of a seed and batch_size is the same, however many there are.
        batch_size: Images inverted at once; the more, the better batch norm's statistics are met.
        resume: Go on with the set in `out`, or invert more for it.
    """
    if count < 1 or batch_size < 1:
        raise InputError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    if inversion.compete:
        raise InputError("inversion.compete must be 0: a set is inverted without a student; generate distil has one")
    tuned = Tuned.open(Path(run))
    require_memory(tuned, inversion)
    wanted = _Wanted.of(tuned, classes, each, batch_size)
    require_encodable(tuned.canvas.shape)
    settings = {
        **digests(tuned.networks), "data": tuned.run.about().get("data"), "classes": list(wanted.classes),
        "sites": [s for s in wanted.sites if s], "inversion": dataclasses.asdict(inversion), "seed": seed,
        "batch_size": batch_size,
    }  # fmt: skip
    require_writable(Path(out))
    with locked(Path(out)):
        done = begin(Path(out), settings, resume)
        if done < count or RECOGNITION not in read_settings(Path(out)):
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            panels = {site: panel.to(device) for site, panel in tuned.panels(each, inversion.hold_out).items()}
            with Counting("inverting images", done) as counting:
                for numbers, images in _rounds(tuned, panels, wanted, inversion, seed, done, count):
                    add(Path(out), numbers, images, [wanted.names(i) for i in numbers])
                    counting(numbers.stop, count)
            _recognise(SyntheticSet.open(Path(out)), tuned.known, panels, wanted)
    return Path(out) / MANIFEST


def _recognise(drawn: SyntheticSet, known: Conditions, panels: Mapping[str | None, Panel], wanted: _Wanted) -> None:
    """Shows the images, as their files have them, to those that had no part in them, and notes what these say."""
    judges = {site: panel.judges for site, panel in panels.items() if panel.judges}
    told: Told = {}
    if judges:
        labels = torch.tensor([known.label(image.label) for image in drawn.images])
        made_by = [wanted.panel(image.number, list(panels)) for image in drawn.images]
        logits = answers(judges, made_by, drawn.pixels(), wanted.batch_size)
        told = Recognition.of(logits, labels).told(known.classes)
    write_json(drawn.folder / SETTINGS, drawn.settings | {RECOGNITION: told})


@dataclass(frozen=True)
class _Wanted:
    """Images in turn: a site, then a class. A round is a batch of every site; its images are inverted together."""

    classes: tuple[str, ...]
    sites: tuple[str | None, ...]
    """None: all together."""
    batch_size: int

    @classmethod
    def of(cls, tuned: Tuned, classes: list[str] | None, each: bool, batch_size: int) -> _Wanted:
        """Raises InputError for a class that is not known, or where no site has a classifier of its own."""
        for name in classes or ():
            tuned.known.label(name)
        if each and not tuned.known.sites:
            raise InputError(f"the sites of {tuned.run.path} have one classifier together; leave --each out")
        return cls(tuple(classes or tuned.known.classes), tuned.known.sites if each else (None,), batch_size)

    @property
    def round_size(self) -> int:
        return self.batch_size * len(self.sites)

    def names(self, i: int) -> tuple[str, str | None]:
        """Class and site of image i."""
        return self.classes[i // len(self.sites) % len(self.classes)], self.sites[i % len(self.sites)]

    def panel(self, i: int, panels: Sequence[str | None]) -> str | None:
        """Who makes image i: its site, or of all together the next in turn with every round."""
        site = self.sites[i % len(self.sites)]
        return panels[i // self.round_size % len(panels)] if site is None else site


def _rounds(
    tuned: Tuned, panels: Mapping[str | None, Panel], wanted: _Wanted, how: Inversion, seed: int, done: int,
    count: int,
) -> Iterator[tuple[range, Float[Tensor, "n c *space"]]]:  # fmt: skip
    """The images from `done` to `count`, whole rounds at a time, of which those at either end are cut off."""
    for first in range(done - done % wanted.round_size, count, wanted.round_size):
        drawn = torch.empty(wanted.round_size, *tuned.canvas.shape)
        for at in range(len(wanted.sites)):
            numbers = range(first + at, first + wanted.round_size, len(wanted.sites))
            labels = torch.tensor([tuned.known.label(wanted.names(i)[0]) for i in numbers])
            makers = panels[wanted.panel(numbers.start, list(panels))].makers
            drawn[at :: len(wanted.sites)] = _inverted(makers, tuned.canvas.shape, numbers, labels, how, seed)
        new = range(max(first, done), min(first + wanted.round_size, count))
        yield new, drawn[new.start - first : new.stop - first]


def _inverted(
    ensemble: Ensemble, shape: tuple[int, ...], numbers: range, labels: Tensor, how: Inversion, seed: int
) -> Tensor:
    device = next(ensemble.parameters()).device
    images = noise_of(seed, numbers, shape).to(device)
    for images in how.walk(ensemble, images, labels.to(device), (seed, numbers.start)):  # noqa: B007, B020
        pass
    return images.cpu()


def require_memory(tuned: Tuned, how: Inversion) -> None:
    """Raises InputError for classifiers without batch norm, unless they are wanted as they are."""
    if how.statistics and not all(remembers(network) for network in tuned.networks.values()):
        raise InputError(
            "the classifiers have no batch norm, whose statistics keep images near to real ones; take such an encoder "
            "(fedcore.models.resnet.ResNet), or do without by --inversion.statistics 0"
        )


def digests(networks: Mapping[str | None, nn.Module]) -> dict[str, object]:
    """What drew a set: `generator` is one digest, of all those in `classifiers`; `` stands for all sites together."""
    each = {site or "": digest_of_weights(network) for site, network in networks.items()}
    return {"generator": hashlib.sha256("".join(each.values()).encode()).hexdigest(), "classifiers": each}


def digest_of_weights(network: nn.Module) -> str:
    return hashlib.sha256(safetensors.torch.save(for_safetensors(network.state_dict()))).hexdigest()
