"""A server and its sites as processes of their own, joined by loopback sockets, each of which may be killed.

Run as a script: a line of JSON in, one out. The process that reads them has the modules loaded and forks, which takes
milliseconds where an import takes seconds; nothing that starts threads has been done here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

from tests.sockets import PATIENCE, Sockets

NAMES = ("hospital_1", "hospital_2")


def task() -> Any:
    """What server and sites build from the recipe: a bank and momentum stay at a site, features are exchanged."""
    from fedcore.models.resnet import ResNet
    from fedssl.methods.moco import MoCo
    from fedssl.pretraining import task_of

    visit, exchange, probe = settings()
    encoder, method = (
        partial(ResNet, depth=10, stem=4),
        partial(MoCo, bank_size=16, remote_bank_size=16, hidden_dim=8, projection_dim=4),
    )
    recipe = {"algorithm": None, "exchange": exchange, "visit": visit, "probe": probe, "seed": 0}
    return task_of(recipe | {"encoder": encoder, "method": method})


def settings() -> tuple[Any, Any, Any]:
    from fedcore.training.visit import Visit
    from fedssl.bank.vectors import ShareVectors
    from fedssl.evaluation.probe import Probe

    visit = Visit(batch_size=8, max_epochs=2, accelerator="cpu", keep_optimizer=True)
    return visit, ShareVectors(upload_size=8, remote_features=8), Probe(every=2, knn_k=3)


def policy() -> Any:
    from fedcore.messages.reveals import Reveals
    from fedcore.privacy.policy import Policy

    return Policy(Reveals.FEATURES, min_patients=1)


def rounds() -> Any:
    from fedcore.server.rounds import Rounds

    return Rounds(4, min_sites=len(NAMES), deadline=PATIENCE)


def site(name: str, manifest: str, folder: str) -> None:
    """A hospital: its own images, its own folder, and one door."""
    from fedcore.data.source import Data
    from fedcore.files.writing import write_atomically
    from fedcore.site.memory import FOLDER, MemoryOnDisk
    from fedcore.site.own_data import OwnData
    from fedcore.site.runtime import SiteRuntime

    home = Path(folder)
    own = OwnData(name, task(), Data(manifest, size=16), policy())
    memory = MemoryOnDisk(home / FOLDER, durable=True)
    runtime = SiteRuntime(name, own.facts, own.settle, own.policy, memory, home)
    with Listener(("127.0.0.1", 0)) as door:
        write_atomically(home / "port", str(door.address[1]).encode())
        while True:
            with contextlib.suppress(OSError, EOFError), door.accept() as connection:  # the server was killed
                while True:
                    connection.send_bytes(runtime.handle(connection.recv_bytes()))


def server(out: str, *folders: str) -> None:
    """Starts the run, or continues it. It has no image and no manifest."""
    from fedcore.algorithms.properties import share_of
    from fedcore.messages.request import EVALUATE
    from fedcore.runs.environment import versions
    from fedcore.runs.folder import RunFolder
    from fedcore.server.about import about_of
    from fedcore.server.job import Job
    from fedcore.server.rounds import PeriodicEvaluation
    from fedcore.server.sites import Sites
    from fedcore.training.checksum import checksum_of
    from fedcore.training.local_trainer import LocalTrainer
    from fedssl.pretraining import finish

    transport = Sockets(dict(zip(NAMES, map(Path, folders), strict=True)))
    training = task()
    with RunFolder(Path(out), "seed: 0\n", resume=True) as run:
        run.prepare()
        sites = Sites.of(transport, run.name, run.digest)
        module = training.module(sites.agreement)
        sites.require_same_module(checksum_of(module), versions())
        local = LocalTrainer(module, share_of(training.algorithm, module), training.visit)
        about = about_of(sites.facts, sites.agreement) | {"command": "pretrain"}
        job = Job(training.algorithm, rounds(), PeriodicEvaluation(EVALUATE, training.probe.every), (), training.seed)
        finish(run, job.train_in(run, local, transport, about, sites=sites), local, training.seed)


def together(out: str, manifest: str) -> None:
    """The same in one process that has all images."""
    from fedcore.data.source import Data
    from fedcore.runs.folder import RunFolder
    from fedssl.pretraining import pretrain

    made, (visit, exchange, probe) = task(), settings()
    data = Data(manifest, size=16)
    with RunFolder(Path(out), "seed: 0\n") as run:
        pretrain(run, made.encoder, made.method, data, None, exchange, visit, rounds(), policy(), probe, ())


ROLES: dict[str, Callable[..., None]] = {"site": site, "server": server, "together": together}


def _serve() -> None:
    import fedssl.pretraining  # noqa: F401

    task()
    said, children = os.fdopen(os.dup(1), "w"), dict[int, int | None]()
    for line in sys.stdin:
        what, *words = json.loads(line)
        answer: int | None = 0
        if what == "start":
            answer = _forked(*words)
            children[answer] = None
        else:
            process = int(words[0])
            if what == "kill":
                os.kill(process, signal.SIGKILL)
            answer = children[process] = _code(process, float(words[1]) if what == "wait" else PATIENCE)
        said.write(json.dumps(answer) + "\n")
        said.flush()
    for process in [process for process, code in children.items() if code is None]:
        os.kill(process, signal.SIGKILL)
        _code(process, PATIENCE)


def _forked(role: str, *words: str) -> int:
    child = os.fork()
    if child:
        return child
    name = words[0] if role == "site" else role
    log = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for at, to in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(at, to)
    code = 1
    try:
        ROLES[role](*words)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code(process: int, within: float) -> int | None:
    handle = os.pidfd_open(process)
    ready, _, _ = select.select([handle], [], [], within)
    os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) if ready else None


if __name__ == "__main__":
    _serve()
