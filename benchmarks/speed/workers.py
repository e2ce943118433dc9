"""Rounds per minute with worker processes, compared with one process with as many threads.

    python -m benchmarks.speed.workers

A round of federated MoCo (ResNet-10, stem 32, 4 sites of 256 images of 64 x 64, batches of 64), in one process with 2
threads and with 2 workers with 1 thread each, interleaved. The start of the workers is measured separately.

2026-11-21, 2-core x86 CPU, torch 2.15; medians of 3 rounds, rounds per minute:

                        idle machine   two runs while other programs kept both cores busy (load 4 to 10)
1 process x 2 threads   67.1            1.4 and  1.3
2 workers x 1 thread    61.9           14.5 and 10.4
start of 2 workers      3.9 s          22 and 14 s

On an idle machine with two cores workers are not faster: two threads share a step as well as two workers share the
sites. Threads that wait for each other lose most by other load, so on a shared machine workers are faster. With more
cores than a step can use, or several small models on one GPU, workers use the machine better; not measured here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.speed.simulated import simulated
from benchmarks.speed.visit_overhead import interleaved, make_sites
from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.request import TRAIN
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.server.rounds import Rounds, federate
from fedcore.server.sites import Sites
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedcore.transport.workers import Workers
from fedssl.methods.moco import MoCo

SITES, IMAGES, SIZE, BATCH, REPEATS = 4, 256, 64, 64, 3


def trainer() -> LocalTrainer:
    module = MoCo(ResNet(depth=10, stem=32), bank_size=1024, remote_bank_size=1)
    return LocalTrainer(module, module.share, Visit(batch_size=BATCH))


def one_round(sites: Sites, local: LocalTrainer) -> Callable[[], None]:
    algorithm = FedAvg()
    state = algorithm.start(local)
    return lambda: federate(algorithm, sites, state, Rounds(1), 0)


def main() -> None:
    torch.set_num_threads(2)
    print(f"torch {torch.__version__}, {SITES} sites x {IMAGES // BATCH} steps of {BATCH}, medians of {REPEATS} rounds")
    images, locals_ = make_sites(SITES, IMAGES, SIZE), (trainer(), trainer())
    single_process, by_workers = (Sites.of(simulated(local, images)) for local in locals_)
    assert isinstance(by_workers.transport, InProcess)
    with Workers(by_workers.transport, 2) as by_workers.transport:
        start = time.perf_counter()
        list(by_workers.ask(TRAIN, [], Round(0, 1, 0)))
        print(f"start of 2 workers: {time.perf_counter() - start:.1f} s")
        times = interleaved(one_round(single_process, locals_[0]), one_round(by_workers, locals_[1]), REPEATS)
    for name, seconds in zip(("1 process x 2 threads", "2 workers x 1 thread"), times, strict=True):
        print(f"{name:<22} {60 / statistics.median(seconds):6.1f} rounds per minute")
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    print(f"speed-up by workers: {ratio:.2f}")


if __name__ == "__main__":
    main()
