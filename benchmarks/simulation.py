"""Simulated sites: the kit against Flower's simulation engine, and the kit with 10, 100 and 1,000 sites.

    python -m benchmarks.simulation [--flower-python PYTHON]

PYTHON is that of an environment of its own with the same torch and Flower, which is left out without it:

    python -m venv FOLDER && FOLDER/bin/pip install -c constraints.txt torch torchvision 'flwr[simulation]'

Both run FedAvg over 16 sites, 5 steps of 10 images of 64 x 64 a visit, one thread a visit, in turns. Flower's engine (ray)
visits as many sites at once as there are cores, each in a process; the kit visits one after another and keeps its
policy, audit files, ledger and checkpoint. "Beside" is what a visit takes beside its training steps: Flower's rounds
less its steps divided by the cores. Flower's first round, which starts its processes, is counted to the whole alone.
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
SITES, ROUNDS, TURNS = 16, 5, 2
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
        "rounds": [b - a for a, b in zip(ends, ends[1:], strict=False)],
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
        kits, theirs, steps = [], [], []
        for _ in range(TURNS):
            kits.append(kit(make(), SITES, ROUNDS))
            net = channels_last(make())
            steps += [train(net) for _ in range(SITES)]
            theirs.append(flower(python, model))
        ours = [r / SITES * 1e3 for run in kits for r in run["rounds"][1:]]
        flowers = [r / SITES * 1e3 for run in theirs for r in run["rounds"][1:]]
        beside = [
            (r / SITES - s / cores) * 1e3 for run in theirs for r, s in zip(run["rounds"], run["steps"], strict=True)
        ][1:]
        a, b, step = statistics.median(ours), statistics.median(flowers), statistics.median(steps) * 1e3
        whole = [statistics.median(run["whole"] for run in runs) for runs in (kits, theirs)]
        print(
            f"  {model:<9} kit {a:6.1f}, beside its steps {a - step:6.1f} | Flower {b:6.1f} ({cores} at once), beside "
            f"its steps {statistics.median(beside):6.1f} | whole, {ROUNDS} rounds: {whole[0]:5.1f} s and {whole[1]:5.1f} s",
            flush=True,
        )


def one_round(sites: int) -> None:
    """Runs in a process of its own: prints a visit's seconds and the peak of resident memory, MB."""
    torch.set_num_threads(1)
    kit(small(), 10, 2)
    gc.collect()
    seconds = kit(small(), sites, max(2, 200 // sites))["rounds"]
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
        return one_round(arguments.sites)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread")
    if arguments.flower_python:
        against_flower(arguments.flower_python)
    else:
        print("Flower is left out: name the python of an environment that has it with --flower-python")
    print("The kit, small CNN, 5 steps of 10; medians of three processes each")
    more_sites()


if __name__ == "__main__":
    main()
