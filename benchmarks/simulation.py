"""Simulated sites: the kit against Flower's simulation engine, and the kit with 10, 100 and 1,000 sites.

    python -m benchmarks.simulation [--flower-python PYTHON]

PYTHON is that of an environment of its own with the same torch, Lightning and Flower, which is left out without it:

    python -m venv FOLDER
    FOLDER/bin/pip install -c constraints.txt torch torchvision pytorch-lightning 'flwr[simulation]'

Both run FedAvg over 8 sites, 5 steps of 10 images of 64 x 64 a visit, one thread a visit, in turns. Flower's engine
(ray) visits as many sites at once as there are cores, each in a process; the kit visits one after another, or with
workers as Flower does, and keeps its policy, audit files, ledger and checkpoint. "Beside its steps" is what a visit
takes beside its training steps; where sites are visited at once, the steps divided by the cores are taken off. Flower's
first round, which starts its processes, is counted to the whole alone. Flower's clients train in a plain loop, or by
Lightning's Trainer as in its example.

2026-11-21, 2-core x86 CPU; torch 2.15.0, Flower 1.41.0, ray 2.55.1; ms a visit, and as a multiple of the kit's:

                                visit   beside its steps   six rounds from start to end
small CNN   the kit              12.3          5.6                 0.6 s
            Flower, plain loop   25.6         20.2 (3.6)          11.9 s
            Flower, Lightning    25.8         20.3 (3.6)          10.6 s
ResNet-18   the kit             578.3         98.5                27.3 s
            Flower, plain loop  397.3        158.2 (1.6)          29.9 s
            Flower, Lightning   391.8        152.3 (1.5)          30.0 s

In another run of the small CNN the kit took 15.3 ms (8.2 beside its steps), with two workers 9.3 (5.7), Flower 25.6
(20.1). Flower waits for replies by asking now and then, which hides what Lightning takes. Of the kit's 5.6 ms
Lightning takes most (benchmarks.visit_overhead); with ResNet-18 both move and hash or pack 45 MB a visit.

   10 sites   12.1 ms a visit           peak 1449 MB
  100 sites   12.1 ms a visit (1.01 x)  peak 1449 MB (1.00 x)
1,000 sites   12.0 ms a visit (1.00 x)  peak 1449 MB (1.00 x)
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.flower_app import BATCH, IMAGES, WAYS, resnet18, small, train
from benchmarks.visit_overhead import Net, make_sites
from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.message import Message
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import Rounds, federate
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.memory_format import channels_last
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess, Transport
from fedcore.transport.workers import Workers

MODELS = {"small": small, "resnet18": resnet18}
SITES, ROUNDS, TURNS = 8, 6, 2
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def kit(net: nn.Module, sites: int, rounds: int, workers: int = 0) -> dict[str, Any]:
    """Seconds of each round and of the whole; all sites read the same images, as sites map files."""
    begun = time.perf_counter()
    images = make_sites(1, IMAGES, 64)["site_0"]
    local = LocalTrainer(Net(net), ("net.",), Visit(BATCH, accelerator="cpu"))
    ends = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        checkpoint, algorithm = Checkpoint(Path(folder) / "state"), FedAvg()
        transport: Transport = InProcess(
            {f"site_{i}": images for i in range(sites)}, local, memories=checkpoint, folder=Path(folder) / "sites"
        )
        if workers:
            transport = stack.enter_context(Workers(transport, workers))

        def finished(record: RoundRecord, state: Message) -> None:
            checkpoint.commit(record.round, state)
            ends.append(time.perf_counter())

        federate(algorithm, transport, algorithm.start(local), Rounds(rounds), 0, finished=finished)
    return {
        "rounds": [b - a for a, b in pairwise(ends)],
        "whole": time.perf_counter() - begun,
    }


def flower(python: str, model: str, way: str) -> dict[str, Any]:
    asked = [python, str(Path(__file__).with_name("flower_app.py")), model, way, str(SITES), str(ROUNDS)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, env=os.environ | QUIET)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def against_flower(python: str) -> None:
    version = subprocess.run(
        [python, "-c", "from importlib.metadata import version; print(version('flwr'), version('ray'))"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    cores = os.cpu_count() or 1
    print(f"Flower {version[0]}, ray {version[1]}, {cores} cores; {SITES} sites, ms a visit, medians")
    for model, make in MODELS.items():
        taken: dict[str, dict[str, list[float]]] = {}
        for _ in range(TURNS):
            net, mine, ours_too = channels_last(make()), kit(make(), SITES, ROUNDS), kit(make(), SITES, ROUNDS, cores)
            step = statistics.median(train(net) for _ in range(SITES))
            loop, lightning = (flower(python, model, way) for way in WAYS)
            theirs = [seconds / cores for seconds in loop["steps"]]
            for name, done, steps in (
                ("the kit", mine, [step] * ROUNDS),
                (f"the kit, {cores} workers", ours_too, [step / cores] * ROUNDS),
                ("Flower, plain loop", loop, theirs),
                ("Flower, Lightning", lightning, theirs),
            ):
                kept = taken.setdefault(name, {"visit": [], "beside": [], "whole": []})
                visits = [seconds / SITES for seconds in done["rounds"]][1:]
                kept["visit"] += visits
                kept["beside"] += [visit - step for visit, step in zip(visits, steps[1:], strict=True)]
                kept["whole"].append(done["whole"])
        for name, kept in taken.items():
            visit, beside, whole = (statistics.median(kept[what]) for what in ("visit", "beside", "whole"))
            ours = statistics.median(taken["the kit"]["beside"])
            print(
                f"  {model:<9} {name:<20}{visit * 1e3:7.1f}, beside its steps {beside * 1e3:7.1f} "
                f"({beside / ours:4.1f} x); {ROUNDS} rounds from start to end {whole:6.1f} s",
                flush=True,
            )


def one_round(sites: int) -> None:
    """Runs in a process of its own: prints a visit's seconds and the peak of resident memory, MB."""
    torch.set_num_threads(1)
    kit(small(), 10, 2)
    gc.collect()
    seconds = kit(small(), sites, max(1, 200 // sites))["rounds"]
    print(statistics.median(seconds) / sites, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def more_sites() -> None:
    """Every count in three fresh processes, in turns."""
    results: dict[int, list[tuple[float, float]]] = {10: [], 100: [], 1000: []}
    for _ in range(3):
        for sites, kept in results.items():
            asked = [sys.executable, "-m", "benchmarks.simulation", "--sites", str(sites)]
            told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
            kept.append((float(told[-2]), float(told[-1])))
    first = [statistics.median(column) for column in zip(*results[10], strict=True)]
    for sites, kept in results.items():
        seconds, memory = (statistics.median(column) for column in zip(*kept, strict=True))
        print(
            f"  {sites:>5} sites: {seconds * 1e3:6.1f} ms a visit ({seconds / first[0]:.2f} x), "
            f"peak {memory:6.0f} MB ({memory / first[1]:.2f} x)"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flower-python", metavar="PYTHON", help="of an environment that has Flower")
    parser.add_argument("--sites", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sites:
        one_round(arguments.sites)
        return
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread")
    if arguments.flower_python:
        against_flower(arguments.flower_python)
    else:
        print("Flower is left out: name the python of an environment that has it with --flower-python")
    print("The kit, small CNN, 5 steps of 10; medians of three processes each", flush=True)
    more_sites()


if __name__ == "__main__":
    main()
