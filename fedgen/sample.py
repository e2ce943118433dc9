"""`fedpretrain generate sample`: a set of drawn images in a folder, with a manifest that the kit itself reads.

A set is candidates: nobody has looked yet whether images of patients are among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fedcore.errors import InputError
from fedcore.files import require_writable
from fedcore.handover import hand_over
from fedcore.local import channels_last
from fedcore.lock import locked
from fedcore.progress import Counting
from fedcore.run import RunFolder
from fedgen.drawn import MANIFEST, add, begin
from fedgen.generator import Generator, InSteps, Known
from fedgen.joint import JointGenerator, load_drawing
from fedgen.origin import generators, trained_on
from fedgen.pictures import require_encodable
from fedgen.sampling import Sampler, noise_of


def sample(
    run: Path,
    out: Path,
    count: int = 1000,
    classes: list[str] | None = None,
    sites: list[str] | None = None,
    steps: int = 50,
    solver: Literal["dpm", "ddim"] = "dpm",
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    resume: bool = False,
) -> Path:
    """Draws a set of images from a trained generator and returns its manifest.

    Args:
        run: A finished run of `generate train`. Where sites have a generator each, images that imitate a site come
            from its own, which so leaves the site (fedgen.joint); with a site's folder in the run nothing leaves.
        out: Folder of the set.
        count: Images in all, evenly over classes and sites.
        classes: Only these; null: all that the generator knows.
        sites: Whose look the images have; null: each site's in turn.
        steps: Of the sampler of a diffusion; more are finer and slower. A GAN or VAE has no sampler.
        solver: dpm, or ddim, which wants more steps; not for a diffusion that predicts the flow.
        guidance: Of a diffusion. 1 draws what was learned; above, images are more typical of their class and less
            diverse.
        seed: Image i of a seed is the same, however many are drawn and in whatever batches.
        batch_size: Images drawn at once.
        resume: Go on with the set in `out`, or draw more for it.
    """
    if count < 1 or batch_size < 1:
        raise InputError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    generator = load_drawing(Path(run))
    try:
        sampler = Sampler(steps, solver, guidance)
    except ValueError as e:
        raise InputError(str(e)) from e
    wanted = Wanted.of(generator.known, classes, sites)
    require_encodable(generator.canvas.shape)
    settings = generators(Path(run), [site for site in wanted.sites if site]) | {
        "data": trained_on(Path(run)), "classes": list(wanted.classes), "sites": list(wanted.sites),
        **_influence(generator, sampler), "seed": seed,
    }  # fmt: skip
    require_writable(Path(out))
    with locked(Path(out)):
        done = begin(Path(out), settings, resume)
        _hand_over(Path(run), generator, wanted)
        _draw(generator, sampler, wanted, range(done, count), seed, batch_size, Path(out))
    return Path(out) / MANIFEST


@dataclass(frozen=True)
class Wanted:
    """Which class and whose look each image of a set has: all pairs in turn."""

    known: Known
    classes: tuple[str | None, ...]
    sites: tuple[str | None, ...]

    @classmethod
    def of(cls, known: Known, classes: Sequence[str] | None, sites: Sequence[str] | None) -> Wanted:
        """Raises InputError for a class or site that the generator does not know."""
        asked = cls(known, tuple(classes or known.classes or (None,)), tuple(sites or known.sites or (None,)))
        for name in asked.classes:
            known.label(name)
        for name in asked.sites:
            known.site(name)
        return asked

    def names(self, i: int) -> tuple[str | None, str | None]:
        """Class and site of image i."""
        return self.classes[i % len(self.classes)], self.sites[i // len(self.classes) % len(self.sites)]


def _influence(generator: Generator, sampler: Sampler) -> dict[str, Any]:
    """The settings of the sampler that the images depend on."""
    each = list(generator.each.values()) if isinstance(generator, JointGenerator) else [generator]
    walking = [made for made in each if isinstance(made, InSteps)]
    if not walking:
        return {}
    solved = any(made.noise.predicts != "flow" for made in walking)
    return {"steps": sampler.steps, "guidance": sampler.guidance} | ({"solver": sampler.solver} if solved else {})


def _hand_over(run: Path, generator: Generator, wanted: Wanted) -> None:
    """Where each site's own generator draws, those that do leave their sites."""
    for site, own in generator.each.items() if isinstance(generator, JointGenerator) else ():
        if site in wanted.sites:
            hand_over(RunFolder(run), site, own.network.state_dict())


def _draw(
    generator: Generator, sampler: Sampler, wanted: Wanted, numbers: range, seed: int, batch_size: int, out: Path
) -> None:
    """A batch of images, then its rows: the manifest never names an image that is not there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Counting("drawing images", numbers.start) as counting, drawing(generator, device):
        for first in range(numbers.start, numbers.stop, batch_size):
            batch = range(first, min(first + batch_size, numbers.stop))
            names = [wanted.names(i) for i in batch]
            labels = torch.tensor([wanted.known.label(label) for label, _ in names], device=device)
            sites = torch.tensor([wanted.known.site(site) for _, site in names], device=device)
            noise = noise_of(seed, batch, generator.noise_shape).to(device)
            images, masks = generator.draw_pairs(noise, labels, sites, sampler)
            add(out, batch, images, names, masks)
            counting(batch.stop, numbers.stop)


@contextmanager
def drawing(generator: Generator, device: torch.device) -> Iterator[None]:
    """The generator is on `device` and as fast there as it gets: channels last, and bf16 on a GPU."""
    channels_last(generator.network).to(device)
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        yield
