"""Simulation speed: the kit compared with Flower's simulation engine, and the kit with 10, 100 and 1,000 sites.

    python -m benchmarks.speed.simulation [--flower-python PYTHON]

PYTHON is the interpreter of a separate environment with the same torch, Lightning and Flower; without it the comparison
with Flower is skipped:

    python -m venv FOLDER
    FOLDER/bin/pip install -c constraints.txt torch torchvision pytorch-lightning 'flwr[simulation]'

Both run FedAvg over 8 sites, 5 steps of 10 images of 64 x 64 per visit, one thread per visit, alternating. Flower's
engine (ray) trains as many sites at the same time as there are cores, each in a process; the kit trains one after
another, or with workers as Flower does, and writes its audit files, ledger and checkpoint. "Overhead" is the time of a
visit minus its training steps; where sites train at the same time, minus the steps divided by the cores. Flower's first
round, which starts its processes, is part of the total alone. Flower's clients train in a plain loop, or by Lightning's
Trainer as in its example.

2026-11-21, 2-core x86 CPU; torch 2.15.0, Flower 1.41.0, ray 2.55.1; ms per visit, and as a multiple of the kit's:

                                visit   overhead           six rounds from start to end
small CNN   the kit              12.3          5.6                 0.6 s
            Flower, plain loop   25.6         20.2 (3.6)          11.9 s
            Flower, Lightning    25.8         20.3 (3.6)          10.6 s
ResNet-18   the kit             578.3         98.5                27.3 s
            Flower, plain loop  397.3        158.2 (1.6)          29.9 s
            Flower, Lightning   391.8        152.3 (1.5)          30.0 s

In another run of the small CNN the kit took 15.3 ms (overhead 8.2), with two workers 9.3 (5.7), Flower 25.6 (20.1).
Flower polls for replies, which hides the time of Lightning. Of the kit's 5.6 ms Lightning takes most
(benchmarks.speed.visit_overhead); with ResNet-18 both move and hash or pack 45 MB per visit.

   10 sites   12.1 ms per visit         peak 1449 MB
  100 sites   12.1 ms per visit (1.01 x)  peak 1449 MB (1.00 x)
1,000 sites   12.0 ms per visit (1.00 x)  peak 1449 MB (1.00 x)
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

from benchmarks.speed.flower_app import BATCH, IMAGES, TRAINERS, resnet18, small, train
from benchmarks.speed.simulated import run_rounds, simulated
from benchmarks.speed.visit_overhead import Net, make_sites
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.memory_format import channels_last
from fedcore.training.visit import Visit

MODELS = {"small": small, "resnet18": resnet18}
SITES, ROUNDS, REPEATS = 8, 6, 2
NO_TELEMETRY = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def kit(net: nn.Module, sites: int, rounds: int, workers: int = 1) -> dict[str, Any]:
    """Seconds of each round and in total; all sites use the same images, as sites memory-map files."""
    start = time.perf_counter()
    images = make_sites(1, IMAGES, 64)["site_0"]
    local = LocalTrainer(Net(net), ("net.",), Visit(BATCH, accelerator="cpu"))
    round_ends = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        transport = simulated(local, {f"site_{i}": images for i in range(sites)}, Path(folder) / "sites")
        run_rounds(local, transport, Path(folder), rounds, workers, lambda: round_ends.append(time.perf_counter()))
    return {
        "rounds": [b - a for a, b in pairwise(round_ends)],
        "total": time.perf_counter() - start,
    }


def flower(python: str, model: str, trainer_name: str) -> dict[str, Any]:
    command = [python, str(Path(__file__).with_name("flower_app.py")), model, trainer_name, str(SITES), str(ROUNDS)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | NO_TELEMETRY)
    result: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    return result


def compare_with_flower(python: str) -> None:
    version = subprocess.run(
        [python, "-c", "from importlib.metadata import version; print(version('flwr'), version('ray'))"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    cores = os.cpu_count() or 1
    print(f"Flower {version[0]}, ray {version[1]}, {cores} cores; {SITES} sites, ms per visit, medians")
    for model, make in MODELS.items():
        times: dict[str, dict[str, list[float]]] = {}
        for _ in range(REPEATS):
            net, kit_result, workers_result = (
                channels_last(make()),
                kit(make(), SITES, ROUNDS),
                kit(make(), SITES, ROUNDS, cores),
            )
            step = statistics.median(train(net) for _ in range(SITES))
            loop, lightning = (flower(python, model, trainer_name) for trainer_name in TRAINERS)
            flower_steps = [seconds / cores for seconds in loop["steps"]]
            for name, result, steps in (
                ("the kit", kit_result, [step] * ROUNDS),
                (f"the kit, {cores} workers", workers_result, [step / cores] * ROUNDS),
                ("Flower, plain loop", loop, flower_steps),
                ("Flower, Lightning", lightning, flower_steps),
            ):
                durations = times.setdefault(name, {"visit": [], "overhead": [], "total": []})
                visits = [seconds / SITES for seconds in result["rounds"]][1:]
                durations["visit"] += visits
                durations["overhead"] += [visit - step for visit, step in zip(visits, steps[1:], strict=True)]
                durations["total"].append(result["total"])
        for name, durations in times.items():
            visit, overhead, total = (statistics.median(durations[key]) for key in ("visit", "overhead", "total"))
            kit_overhead = statistics.median(times["the kit"]["overhead"])
            print(
                f"  {model:<9} {name:<20}{visit * 1e3:7.1f}, overhead {overhead * 1e3:7.1f} "
                f"({overhead / kit_overhead:4.1f} x); {ROUNDS} rounds from start to end {total:6.1f} s",
                flush=True,
            )


def measure_sites(sites: int) -> None:
    """Runs in its own process: prints the seconds of a visit and the peak of resident memory in MB."""
    torch.set_num_threads(1)
    kit(small(), 10, 2)
    gc.collect()
    seconds = kit(small(), sites, max(1, 200 // sites))["rounds"]
    print(statistics.median(seconds) / sites, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compare_numbers_of_sites() -> None:
    """Measures each number of sites in three new processes, alternating."""
    results: dict[int, list[tuple[float, float]]] = {10: [], 100: [], 1000: []}
    for _ in range(3):
        for sites, measured in results.items():
            command = [sys.executable, "-m", "benchmarks.speed.simulation", "--sites", str(sites)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            measured.append((float(output[-2]), float(output[-1])))
    first = [statistics.median(column) for column in zip(*results[10], strict=True)]
    for sites, measured in results.items():
        seconds, memory = (statistics.median(column) for column in zip(*measured, strict=True))
        print(
            f"  {sites:>5} sites: {seconds * 1e3:6.1f} ms per visit ({seconds / first[0]:.2f} x), "
            f"peak {memory:6.0f} MB ({memory / first[1]:.2f} x)"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flower-python", metavar="PYTHON", help="interpreter of an environment with Flower")
    parser.add_argument("--sites", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sites:
        measure_sites(arguments.sites)
        return
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread")
    if arguments.flower_python:
        compare_with_flower(arguments.flower_python)
    else:
        print("Flower is skipped: set --flower-python to the interpreter of an environment with Flower")
    print("The kit, small CNN, 5 steps of 10; medians of three processes each", flush=True)
    compare_numbers_of_sites()


if __name__ == "__main__":
    main()
