"""`fedpretrain generate sample`: a set of synthetic images in a folder, with a manifest that the kit reads.

Before its audit, a set may contain copies of patients' images.
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
from fedcore.training.memory_format import channels_last
from fedcore.transport.simulation import hand_over
from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.generator import Generator, IterativeGenerator
from fedgen.oneshot.joint_generator import JointGenerator, load_run_generator
from fedgen.synthetic.class_counts import SamplingPlan
from fedgen.synthetic.image_files import require_encodable
from fedgen.synthetic.provenance import generator_digests, training_data_of
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
    """Generates a set of synthetic images with a trained generator and returns its manifest.

    Args:
        run: A finished run of `generate train`. If each site has its own generator, images in the style of a site come
            from that one, which leaves the site for this (fedgen.oneshot.joint_generator); with a site's folder in the
            run nothing leaves.
        out: Folder of the set.
        count: Number of images, equal for all classes; within a class, proportional to the sites' images of it.
        classes: Only these classes; null: all of the generator.
        sites: Only in the style of these sites; null: of all sites that have the class. Combinations of class and site
            with fewer than policy.min_patients patients are left out, which set.json lists.
        steps: Denoising steps of a diffusion, null: 50; more are finer and slower. A GAN or VAE has none.
        solver: Of a diffusion that predicts v or epsilon, null: dpm; or ddim, which needs more steps.
        guidance: Scale of classifier-free guidance of a diffusion. null and 1: none; above 1, images are more typical
            of their class and less diverse.
        seed: Image i of a seed is the same for every count and batch_size.
        batch_size: Images generated at once.
        resume: Continue the set in `out`, or add images to it.
    """
    if count < 1 or batch_size < 1:
        raise InputError(f"count and batch_size must be at least 1, got {count} and {batch_size}")
    generator = load_run_generator(Path(run))
    sampler = _sampler(generator, steps, solver, guidance)
    plan = SamplingPlan.of(generator.conditions, classes, sites)
    require_encodable(generator.image_shape.shape)
    settings = generator_digests(Path(run), [site for site in plan.sites if site]) | {
        **training_data_of(Path(run)), "classes": list(plan.classes), "sites": list(plan.sites),
        NOTE: plan.note(), **_sampler_settings(generator, sampler), "seed": seed,
    }  # fmt: skip
    if note := plan.note():
        print(note)
    require_writable(Path(out))
    with locked(Path(out)):
        done = begin(Path(out), settings, resume)
        _hand_over(Path(run), generator, plan)
        _generate(generator, sampler, plan, range(done, count), seed, batch_size, Path(out))
    return Path(out) / MANIFEST


def _sampler(
    generator: Generator, steps: int | None, solver: Literal["dpm", "ddim"] | None, guidance: float | None
) -> Sampler:
    """Raises InputError for settings that are invalid or would have no effect on the images."""
    settings = {"steps": steps, "solver": solver, "guidance": guidance}
    settings = {name: value for name, value in settings.items() if value is not None}
    diffusions, conditions = _diffusions(generator), generator.conditions
    if settings and not diffusions:
        kind = type(next(iter(_each(generator)))).__name__
        options = " and ".join(f"--{name}" for name in settings)
        raise InputError(f"{options}: only for a diffusion; a {kind} has no sampler, omit them")
    if solver and all(diffusion.schedule.prediction_type == "flow" for diffusion in diffusions):
        raise InputError("--solver: only for diffusions that predict v or epsilon; this one predicts flow, omit it")
    if guidance not in (None, 1) and not (conditions.classes or conditions.sites):
        raise InputError("--guidance needs classes or sites, and this generator has none; omit it")
    if guidance not in (None, 1) and not all(diffusion.condition_dropout for diffusion in diffusions):
        raise InputError(
            "--guidance needs a generator that was also trained on images without class and site, and this one was "
            "not; omit it, or train one with generator.init_args.condition_dropout above 0, such as 0.1"
        )
    try:
        return Sampler(**settings)  # type: ignore[arg-type]
    except ValueError as e:
        raise InputError(str(e)) from e


def _each(generator: Generator) -> list[Generator]:
    return list(generator.each.values()) if isinstance(generator, JointGenerator) else [generator]


def _diffusions(generator: Generator) -> list[IterativeGenerator]:
    return [made for made in _each(generator) if isinstance(made, IterativeGenerator)]


def _sampler_settings(generator: Generator, sampler: Sampler) -> dict[str, Any]:
    """The settings of the sampler that the images depend on."""
    diffusions = _diffusions(generator)
    if not diffusions:
        return {}
    solved = any(diffusion.schedule.prediction_type != "flow" for diffusion in diffusions)
    return {"steps": sampler.steps, "guidance": sampler.guidance} | ({"solver": sampler.solver} if solved else {})


def _hand_over(run: Path, generator: Generator, plan: SamplingPlan) -> None:
    """If each site has its own generator, those that are used leave their sites."""
    for site, own in generator.each.items() if isinstance(generator, JointGenerator) else ():
        if site in plan.sites:
            hand_over(RunFolder(run), site, own.network.state_dict())


def _generate(
    generator: Generator, sampler: Sampler, plan: SamplingPlan, numbers: range, seed: int, batch_size: int, out: Path
) -> None:
    """A batch of images, then its rows, so that the manifest never names a missing image."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    planned = plan.conditions_of(numbers.stop)
    with Counting("generating images", numbers.start) as counting, generating(generator, device):
        for first in range(numbers.start, numbers.stop, batch_size):
            batch = range(first, min(first + batch_size, numbers.stop))
            conditions = planned[batch.start : batch.stop]
            labels = torch.tensor([generator.conditions.class_index(label) for label, _ in conditions], device=device)
            sites = torch.tensor([generator.conditions.site_index(site) for _, site in conditions], device=device)
            noise = noise_of(seed, batch, generator.noise_shape).to(device)
            images, masks = generator.sample_with_masks(noise, labels, sites, sampler)
            add(out, batch, images, conditions, masks)
            counting(batch.stop, numbers.stop)


@contextmanager
def generating(generator: Generator, device: torch.device) -> Iterator[None]:
    """The generator is on `device`, in inference mode, channels last, and in bf16 on a GPU."""
    channels_last(generator.network).to(device)
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        yield
