"""`fedpretrain generate sample`: a set of drawn images in a folder, with a manifest that the kit itself reads.

A set is candidates: nobody has looked yet whether images of patients are among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from fedcore.errors import InputError
from fedcore.files.lock import locked
from fedcore.files.writing import require_writable
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import Counting
from fedcore.site.one_shot import hand_over
from fedcore.training.memory_format import channels_last
from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.generator import Generator, InSteps
from fedgen.oneshot.joint_generator import JointGenerator, load_drawing
from fedgen.synthetic.class_counts import Wanted
from fedgen.synthetic.image_files import require_encodable
from fedgen.synthetic.provenance import generators, trained_on
from fedgen.synthetic.synthetic_set import MANIFEST, NOTE, add, begin


def sample(
    run: Path,
    out: Path,
    count: int = 1000,
    classes: list[str] | None = None,
    sites: list[str] | None = None,
    steps: int | None = None,
    solver: Literal["dpm", "ddim"] | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    resume: bool = False,
) -> Path:
    """Draws a set of images from a trained generator and returns its manifest.

    Args:
        run: A finished run of `generate train`. Where sites have a generator each, images that imitate a site come
            from its own, which so leaves the site (fedgen.oneshot.joint_generator); with a site's folder in the run
            nothing leaves.
        out: Folder of the set.
        count: Images in all, evenly over classes; of a class, each site's look as often as the site has images of it.
        classes: Only these; null: all that the generator knows.
        sites: Whose look the images have; null: each site's that has the class. Pairs of class and site that were
            trained on images of fewer than policy.min_patients patients are left out, and set.json says which.
        steps: Of the sampler of a diffusion, null: 50; more are finer and slower. A GAN or VAE has no sampler.
        solver: Of a diffusion that predicts v or epsilon, null: dpm; or ddim, which wants more steps.
        guidance: Of a diffusion. null and 1 draw what was learned; above, images are more typical of their class and
            less diverse.
        seed: Image i of a seed is the same, however many are drawn and in whatever batches.
        batch_size: Images drawn at once.
        resume: Go on with the set in `out`, or draw more for it.
    """
    if count < 1 or batch_size < 1:
        raise InputError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    generator = load_drawing(Path(run))
    sampler = _sampler(generator, steps, solver, guidance)
    wanted = Wanted.of(generator.known, classes, sites)
    require_encodable(generator.canvas.shape)
    settings = generators(Path(run), [site for site in wanted.sites if site]) | {
        **trained_on(Path(run)), "classes": list(wanted.classes), "sites": list(wanted.sites),
        NOTE: wanted.note(), **_influence(generator, sampler), "seed": seed,
    }  # fmt: skip
    if note := wanted.note():
        print(note)
    require_writable(Path(out))
    with locked(Path(out)):
        done = begin(Path(out), settings, resume)
        _hand_over(Path(run), generator, wanted)
        _draw(generator, sampler, wanted, range(done, count), seed, batch_size, Path(out))
    return Path(out) / MANIFEST


def _sampler(
    generator: Generator, steps: int | None, solver: Literal["dpm", "ddim"] | None, guidance: float | None
) -> Sampler:
    """Raises InputError for what cannot be, or would have no influence on the images."""
    walking, known = _in_steps(generator), generator.known
    given = [
        f"--{name}" for name, of in {"steps": steps, "solver": solver, "guidance": guidance}.items() if of is not None
    ]
    if given and not walking:
        kind = type(next(iter(_each(generator)))).__name__
        raise InputError(f"{' and '.join(given)} set the sampler of a diffusion; a {kind} has none, leave them out")
    if solver and all(made.noise.predicts == "flow" for made in walking):
        raise InputError(
            "--solver is for diffusions that predict v or epsilon; this one predicts the flow, leave it out"
        )
    if guidance not in (None, 1) and not (known.classes or known.sites):
        raise InputError("--guidance leads to a class or site, and this generator knows none; leave it out")
    if guidance not in (None, 1) and not all(made.dropped for made in walking):
        raise InputError(
            "--guidance compares with images of which nothing is said, and this generator was trained on none; leave "
            "it out, or train one with generator.init_args.dropped above 0, such as 0.1"
        )
    asked = {"steps": steps, "solver": solver, "guidance": guidance}
    try:
        return Sampler(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    except ValueError as e:
        raise InputError(str(e)) from e


def _each(generator: Generator) -> list[Generator]:
    return list(generator.each.values()) if isinstance(generator, JointGenerator) else [generator]


def _in_steps(generator: Generator) -> list[InSteps]:
    return [made for made in _each(generator) if isinstance(made, InSteps)]


def _influence(generator: Generator, sampler: Sampler) -> dict[str, Any]:
    """The settings of the sampler that the images depend on."""
    walking = _in_steps(generator)
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
    of_each = wanted.names(numbers.stop)
    with Counting("drawing images", numbers.start) as counting, drawing(generator, device):
        for first in range(numbers.start, numbers.stop, batch_size):
            batch = range(first, min(first + batch_size, numbers.stop))
            names = of_each[batch.start : batch.stop]
            labels = torch.tensor([generator.known.label(label) for label, _ in names], device=device)
            sites = torch.tensor([generator.known.site(site) for _, site in names], device=device)
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
