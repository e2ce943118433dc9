"""Overhead of a federated visit: its time in addition to its training steps.

    python -m benchmarks.speed.visit_overhead

In one process, interleaved: a round of FedAvg with the kit (policy, audit file, ledger, in-process transport,
Lightning, checkpoint of the round), compared with a plain PyTorch loop that takes the same optimizer steps on
the same batches, site after site. Then the peak memory of a round over 4 and over 64 sites.

2026-11-21, 2-core x86 CPU, torch 2.15, 2 threads; the kit's time includes the checkpoint of each round:

small CNN, 8 sites x 5 steps of 10    plain 5.4 to 6.2 ms per visit, kit + 6.6, 6.6 and 7.4 ms (three runs)
ResNet-18, 4 sites x 20 steps of 32   plain 2140 and 2190 ms, kit + 103 and 120 ms, ratio 1.048 and 1.055 (two)
ResNet-18, 4 sites x 5 steps of 32    plain 577 ms, kit + 70 ms, ratio 1.112 (one)
peak memory, ResNet-18                1619 MB with 4 sites, 1619 MB with 64; one model is 42 MB

Of the small CNN's 6.6 ms Lightning takes most: 2 ms to start a fit, 0.7 to 0.9 ms per step. With ResNet-18 most time is
spent on bytes: the SHA-256 of the audit log (25 ms), the checkpoint of the round (200 ms per round, 50 per visit), and
copies.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from benchmarks.speed.simulated import run_rounds, simulated
from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.request import TRAIN
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.runs.checkpoint import Checkpoint
from fedcore.server.sites import Sites
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.malloc import keep_large_blocks
from fedcore.training.memory_format import channels_last
from fedcore.training.visit import Visit

CLASSES = 4


class Net(pl.LightningModule):
    share, targets = ("net.",), "labels"

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.01)


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, CLASSES),
    )  # fmt: skip


def resnet18() -> nn.Module:
    return nn.Sequential(ResNet(depth=18), nn.Linear(512, CLASSES))


def make_sites(count: int, images: int, size: int) -> dict[str, Images]:
    rng = np.random.default_rng(0)
    return {f"site_{i}": Images(
        site=f"site_{i}", pixels=rng.uniform(-1, 1, (images, 1, size, size)).astype(np.float16),
        splits=np.full(images, "train"), labels=torch.from_numpy(rng.integers(0, CLASSES, images)),
        patients=np.arange(images),
    ) for i in range(count)}  # fmt: skip


def kit_round(net: nn.Module, sites: dict[str, Images], batch: int, folder: Path) -> Callable[[], None]:
    local = LocalTrainer(Net(net), ("net.",), Visit(batch_size=batch, accelerator="cpu"))
    transport = simulated(local, sites, folder / "sites")
    return lambda: run_rounds(local, transport, folder)


def plain_loop(net: nn.Module, sites: dict[str, Images], batch: int) -> Callable[[], None]:
    """Copies the weights in, trains and averages the weights."""

    def one_round() -> None:
        start = {k: v.clone() for k, v in net.state_dict().items()}
        total: dict[str, Tensor] = {}
        for images in sites.values():
            net.load_state_dict(start)
            optimizer = SGD(net.parameters(), lr=0.01)
            for x, y in loader(images, batch, shuffle=True, drop_last=True, targets="labels"):
                optimizer.zero_grad()
                cross_entropy(net(x), y).backward()
                optimizer.step()
            for k, v in net.state_dict().items():
                total[k] = total.get(k, 0) + v.double() / len(sites)
        net.load_state_dict(total)

    return one_round


def interleaved(a: Callable[[], None], b: Callable[[], None], repeats: int) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(repeats + 1):
        for run, durations in ((a, times[0]), (b, times[1])):
            start = time.perf_counter()
            run()
            if i:  # the first of each is the warm-up
                durations.append(time.perf_counter() - start)
    return times


def compare(title: str, make: Callable[[], nn.Module], count: int, images: int, batch: int, repeats: int) -> None:
    sites = make_sites(count, images, 64)
    with tempfile.TemporaryDirectory() as folder:
        kit = kit_round(make(), sites, batch, Path(folder))
        net = channels_last(make())  # the kit's memory format, so that steps take the same time
        kit_times, plain_times = interleaved(kit, plain_loop(net, sites, batch), repeats)
    overhead = statistics.median((k - p) / count for k, p in zip(kit_times, plain_times, strict=True))
    ratio = statistics.median(k / p for k, p in zip(kit_times, plain_times, strict=True))
    plain = statistics.median(plain_times) / count
    print(f"{title:<34} plain {plain * 1e3:7.1f} ms per visit, kit +{overhead * 1e3:5.1f} ms, ratio {ratio:.3f}")


def fixed_cost(repeats: int = 7) -> dict[str, float]:
    """Median milliseconds of a visit without a training step and of a commit, with 47 million parameters."""
    keep_large_blocks()
    net = nn.Sequential(ResNet(depth=18, stem=132), nn.Linear(1056, CLASSES))
    local = LocalTrainer(Net(net), ("net.",), Visit(max_steps=0, accelerator="cpu"))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        algorithm, checkpoint = FedAvg(), Checkpoint(Path(folder) / "state")
        sites = Sites.of(simulated(local, make_sites(4, 8, 32), Path(folder) / "sites"))
        state = algorithm.start(local)
        for index in range(repeats + 1):
            start, cpu_start = time.perf_counter(), time.process_time()
            answers = sites.ask(TRAIN, [(name, state) for name in sites.names()], Round(index, repeats + 1, 0))
            state = algorithm.merge(state, cast(Iterator[Contribution[Weights]], answers))
            visits_end, visits_cpu_end = time.perf_counter(), time.process_time()
            checkpoint.commit(index, state)
            found.append({
                "visit": (visits_end - start) / 4, "visit's CPU time": (visits_cpu_end - cpu_start) / 4,
                "commit": time.perf_counter() - visits_end, "commit's CPU time": time.process_time() - visits_cpu_end,
            })  # fmt: skip
    return {
        name: 1e3 * statistics.median(one[name] for one in found[1:]) for name in found[0]
    }  # the first is the warm-up


def peak_memory(count: int) -> None:
    """Runs in its own process: prints the peak of resident memory after one round, in MB."""
    import resource

    sites = make_sites(1, 64, 64)["site_0"]
    with tempfile.TemporaryDirectory() as folder:
        run = kit_round(resnet18(), {f"site_{i}": sites for i in range(count)}, 32, Path(folder))
        gc.collect()
        run()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory_of(count: int) -> float:
    import subprocess

    command = [sys.executable, "-m", "benchmarks.speed.visit_overhead", "--memory", str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    torch.set_num_threads(2)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of interleaved rounds")
    compare("small CNN, 8 sites x 5 steps of 10", small, 8, 50, 10, 15)
    compare("ResNet-18, 4 sites x 20 steps of 32", resnet18, 4, 640, 32, 5)
    compare("ResNet-18, 4 sites x 5 steps of 32", resnet18, 4, 160, 32, 9)
    costs = ", ".join(f"{name} {ms:.0f} ms" for name, ms in fixed_cost().items())
    print(f"47 million parameters, 4 sites without a step: {costs}")
    model = sum(t.numel() * t.element_size() for t in resnet18().state_dict().values()) / 2**20
    few, many = memory_of(4), memory_of(64)
    print(f"peak memory, ResNet-18: {few:.0f} MB with 4 sites, {many:.0f} MB with 64; one model is {model:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        peak_memory(int(sys.argv[2]))
    else:
        main()
