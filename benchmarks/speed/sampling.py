"""Images per second of sampling: the kit and diffusers' DDIMPipeline with the same weights, steps and noise.

    python -m benchmarks.speed.sampling   (two minutes; uses a GPU if there is one)

DDIM, 20 steps, 32 images of 32 x 32 at once, `UNet(2, 1)` with its defaults, alternating. The pipeline has no
class condition, so the kit samples without one, with a zero embedding. First it is checked that both generate the same
images; images that are equal have an equal Frechet distance.

2026-11-21, 2-core x86 CPU; torch 2.15.0, diffusers 0.42.1; images per second, medians of nine repeats:

               pipeline   kit
two threads      14.7     17.6 (1.19)
one thread        8.8     11.2 (1.27)

No pixel differs by more than 1.5e-6. On a GPU the kit samples under bf16 autocast, which was not measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMPipeline, UNet2DModel
from torch import Tensor

from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.sampler import Sampler
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.diffusion.unet import UNet
from fedgen.generator import UNCONDITIONED, Conditions, ImageShape
from fedgen.sampling import generating

SIZE, BATCH, REPEATS = 32, 32, 9
SAMPLER = Sampler(steps=20, solver="ddim")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def generator() -> DiffusionGenerator:
    torch.manual_seed(0)
    conditions = Conditions((), ())
    denoiser = Denoiser(UNet(2, 1), conditions)
    for table in (denoiser.condition_embedding.classes, denoiser.condition_embedding.sites):
        torch.nn.init.zeros_(table.weight)
    return DiffusionGenerator(denoiser.eval(), conditions, ImageShape(1, (SIZE, SIZE)), NoiseSchedule(), 0.1)


def noise() -> Tensor:
    """The noise that the pipeline starts from."""
    return torch.randn(BATCH, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def kit(generator_model: DiffusionGenerator) -> Callable[[], Tensor]:
    nothing = torch.full((BATCH,), UNCONDITIONED, device=DEVICE)

    def draw() -> Tensor:
        with generating(generator_model, DEVICE):
            return generator_model.sample(noise().to(DEVICE), nothing, nothing, SAMPLER).cpu()

    return draw


def pipeline(generator_model: DiffusionGenerator) -> Callable[[], Tensor]:
    own: Any = generator_model.network.unet.net
    net = UNet2DModel.from_config(dict(own.config), class_embed_type=None, sample_size=SIZE)
    net.load_state_dict(own.state_dict())
    pipe = DDIMPipeline(net.eval().to(DEVICE), SAMPLER.scheduler(generator_model.schedule))
    pipe.set_progress_bar_config(disable=True)

    def draw() -> Tensor:
        seed = torch.Generator().manual_seed(0)
        images = pipe(BATCH, seed, num_inference_steps=SAMPLER.steps, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1

    return draw


def seconds(draw: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    draw()
    return time.perf_counter() - start


def main() -> None:
    generator_model = generator()
    pipeline_sample, kit_sample = pipeline(generator_model), kit(generator_model)
    difference = float((pipeline_sample() - kit_sample()).abs().max())
    seconds_spent = [(seconds(pipeline_sample), seconds(kit_sample)) for _ in range(REPEATS)]
    rates = [BATCH / statistics.median(side) for side in zip(*seconds_spent, strict=True)]
    ratio = statistics.median(a / b for a, b in seconds_spent)
    print(f"{DEVICE.type}: largest difference of a pixel {difference:.1e}")
    print(f"pipeline {rates[0]:.1f} images/s, kit {rates[1]:.1f} images/s ({ratio:.2f} times)")


if __name__ == "__main__":
    main()
