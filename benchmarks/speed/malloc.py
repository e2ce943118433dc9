"""Time saved by keeping large blocks of memory between steps (`fedcore.training.malloc`).

    python -m benchmarks.speed.malloc

BYOL (ResNet-10, stem 32), steps of 64 images of 128 x 128 on one thread, with layer outputs of up to 32 MB: the same
visit in a process that keeps large blocks and in one that does not, alternating, one process at a time.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

REPEATS, STEPS = 5, 4


def visit(keep: bool) -> dict[str, float]:
    """Seconds and MB of a visit after a warm-up visit."""
    import torch
    from torch.optim import AdamW

    from benchmarks.speed.visit_overhead import make_sites
    from fedcore.algorithms.fedavg import FedAvg
    from fedcore.messages.round import Round
    from fedcore.models.resnet import ResNet
    from fedcore.site.site import Site
    from fedcore.training.local_trainer import LocalTrainer
    from fedcore.training.malloc import keep_large_blocks
    from fedcore.training.visit import Visit
    from fedssl.methods.byol import BYOL

    torch.set_num_threads(1)
    if keep and not keep_large_blocks():
        raise SystemExit("large blocks cannot be kept: this C library or the environment does not allow it")
    images = make_sites(1, 64 * STEPS, 128)["site_0"]
    module = BYOL(ResNet(depth=10, stem=32), optimizer=lambda p: AdamW(p, lr=1e-3, fused=True))
    local = LocalTrainer(module, module.share, Visit(batch_size=64, accelerator="cpu"))
    down, site = FedAvg().start(local), Site("site_0", images)

    def one_visit(index: int) -> None:
        with local.at(site):
            FedAvg().visit(site, down, local, Round(index, 2, 0))

    one_visit(0)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    one_visit(1)
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {
        "wall": time.perf_counter() - start, "user": user, "system": system, "cpu": user + system,
        "peak": after.ru_maxrss / 1024,
    }  # fmt: skip


def in_process(keep: bool) -> dict[str, float]:
    """`visit` in its own process."""
    command = [sys.executable, "-m", "benchmarks.speed.malloc", "--keep" if keep else "--give-back"]
    measured: Any = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    )
    return dict(measured)


def main() -> None:
    pairs = [(in_process(False), in_process(True)) for _ in range(REPEATS)]
    for name in pairs[0][0]:
        before, after = (statistics.median(pair[side][name] for pair in pairs) for side in (0, 1))
        ratio = statistics.median((pair[1][name] + 1e-3) / (pair[0][name] + 1e-3) for pair in pairs)
        print(f"{name:<8} given back {before:8.2f}   kept {after:8.2f}   ratio {ratio:.2f}")


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(visit(sys.argv[1] == "--keep")))
    else:
        main()
