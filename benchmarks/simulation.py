"""Simulated sites: the kit against Flower's simulation engine, and the kit with 10, 100 and 1,000 sites.

    python -m benchmarks.simulation [--flower-python PYTHON]

PYTHON is that of an environment of its own with the same torch and Flower, which is left out without it:

    python -m venv FOLDER && FOLDER/bin/pip install -c constraints.txt torch torchvision 'flwr[simulation]'

Both run FedAvg over 8 sites, 5 steps of 10 images of 64 x 64 a visit, one thread a visit, in turns. Flower's engine
(ray) visits as many sites at once as there are cores, each in a process; the kit visits one after another and keeps
its policy, audit files, ledger and checkpoint. "Beside its steps" is what a visit takes beside its training steps; of
Flower's round, its steps divided by the cores are taken off. Flower's first round, which starts its processes, is
counted to the whole alone.

2026-11-21, 2-core x86 CPU shared with other work; torch 2.15.0, Flower 1.41.0, ray 2.55.1; ms a visit:

small CNN   kit 18.7, beside its steps 10.7;    Flower 38.2, beside its steps 25.7 (two sites at once)
            six rounds from start to end: 0.9 s and 17.6 s
ResNet-18   kit 545.8, beside its steps 118.6;  Flower 593.3, beside its steps 180.9 (two sites at once)
            six rounds from start to end: 26.3 s and 46.9 s

   10 sites   17.6 ms a visit           peak 804 MB
  100 sites   17.9 ms a visit (1.02 x)  peak 803 MB (1.00 x)
1,000 sites   18.1 ms a visit (1.03 x)  peak 806 MB (1.00 x)
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
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.flower_app import BATCH, IMAGES, resnet18, small, train
from benchmarks.visit_overhead import Net, make_sites
from fedcore.algorithm import FedAvg
from fedcore.checkpoint import Checkpoint
from fedcore.federation import Rounds, federate
from fedcore.ledger import RoundRecord
from fedcore.local import LocalTrainer, Visit, channels_last
from fedcore.message import Message
from fedcore.transport import InProcess

MODELS = {"small": small, "resnet18": resnet18}
SITES, ROUNDS, TURNS = 8, 6, 2
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def kit(net: nn.Module, sites: int, rounds: int) -> dict[str, Any]:
    """Seconds of each round and of the whole; all sites read the same images, as sites map files."""
    begun = time.perf_counter()
    images = make_sites(1, IMAGES, 64)["site_0"]
    local = LocalTrainer(Net(net), ("net.",), Visit(BATCH, accelerator="cpu"))
    ends = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, algorithm = Checkpoint(Path(folder) / "state"), FedAvg()
        transport = InProcess(
            {f"site_{i}": images for i in range(sites)}, local, memories=checkpoint, folder=Path(folder) / "sites"
        )

        def finished(record: RoundRecord, state: Message) -> None:
            checkpoint.commit(record.round, state)
            ends.append(time.perf_counter())

        federate(algorithm, transport, algorithm.start(local), Rounds(rounds), 0, finished=finished)
    return {
        "rounds": [b - a for a, b in pairwise(ends)],
        "whole": time.perf_counter() - begun,
    }


def flower(python: str, model: str) -> dict[str, Any]:
    asked = [python, str(Path(__file__).with_name("flower_app.py")), model, str(SITES), str(ROUNDS)]
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
        ours: dict[str, list[float]] = {"visit": [], "beside": [], "whole": []}
        theirs: dict[str, list[float]] = {"visit": [], "beside": [], "whole": []}
        for _ in range(TURNS):
            net, mine = channels_last(make()), kit(make(), SITES, ROUNDS)
            step = statistics.median(train(net) for _ in range(SITES))
            other = flower(python, model)
            for kept, done, steps in (
                (ours, mine, [step] * ROUNDS),
                (theirs, other, [seconds / cores for seconds in other["steps"]]),
            ):
                visits = [seconds / SITES for seconds in done["rounds"]][1:]
                kept["visit"] += visits
                kept["beside"] += [visit - step for visit, step in zip(visits, steps[1:], strict=True)]
                kept["whole"].append(done["whole"])
        for name, kept in (("kit", ours), (f"Flower, {cores} sites at once", theirs)):
            visit, beside, whole = (statistics.median(kept[what]) for what in ("visit", "beside", "whole"))
            print(
                f"  {model:<9} {name:<23}{visit * 1e3:7.1f}, beside its steps {beside * 1e3:7.1f}; "
                f"{ROUNDS} rounds from start to end {whole:6.1f} s",
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
