"""The Flower part of benchmarks.speed.simulation: FedAvg on the same model, images and steps, without the kit.

    PYTHON benchmarks/speed/flower_app.py small|resnet18 loop|lightning SITES ROUNDS

A visit trains in a plain loop, or with Lightning's Trainer as in Flower's Lightning example. The last printed line is
JSON: seconds of each round, mean seconds of training per visit in it, and seconds in total.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18 as torchvision_resnet18

IMAGES, BATCH, CLASSES = 50, 10, 4


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, CLASSES),
    )  # fmt: skip


def resnet18() -> nn.Module:
    net = torchvision_resnet18(num_classes=CLASSES)
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return net


def train(net: nn.Module) -> float:
    """One epoch; returns its seconds, including the generation of the images, which are noise."""
    start = time.perf_counter()
    images, labels = torch.rand(IMAGES, 1, 64, 64) * 2 - 1, torch.randint(0, CLASSES, (IMAGES,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for at in torch.split(torch.randperm(IMAGES), BATCH):
        optimizer.zero_grad()
        cross_entropy(net(images[at]), labels[at]).backward()
        optimizer.step()
    return time.perf_counter() - start


def train_with_lightning(net: nn.Module) -> float:
    """The same epoch by a Trainer without logging, saving and checks; returns its seconds."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.SGD:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    start = time.perf_counter()
    images, labels = torch.rand(IMAGES, 1, 64, 64) * 2 - 1, torch.randint(0, CLASSES, (IMAGES,))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(TensorDataset(images, labels), BATCH, shuffle=True))
    return time.perf_counter() - start


TRAINERS = {"loop": train, "lightning": train_with_lightning}


def simulate(model: str, trainer_name: str, sites: int, rounds: int) -> dict[str, Any]:
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    make = {"small": small, "resnet18": resnet18}[model]
    client, server = ClientApp(), ServerApp()
    round_ends: list[float] = []
    result: dict[str, Any] = {}

    @client.train()
    def visit(message: Message, _: Context) -> Message:
        torch.set_num_threads(1)
        net = make()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        metrics = MetricRecord({"num-examples": IMAGES, "seconds": TRAINERS[trainer_name](net)})
        return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)

    @server.main()
    def main(grid: Grid, _: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0, min_available_nodes=sites)
        history = strategy.start(
            grid,
            ArrayRecord(make().state_dict()),
            rounds,
            evaluate_fn=lambda *_: round_ends.append(time.perf_counter()),
        )
        result["steps"] = [metrics["seconds"] for metrics in history.train_metrics_clientapp.values()]

    start = time.perf_counter()
    run_simulation(server, client, sites, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
    total = time.perf_counter() - start
    return result | {"rounds": [b - a for a, b in pairwise(round_ends)], "total": total}


if __name__ == "__main__":
    print(json.dumps(simulate(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
