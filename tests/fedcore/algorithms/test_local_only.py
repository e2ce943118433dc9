from __future__ import annotations

from fedcore.algorithms.local_only import LocalOnly
from fedcore.messages.message import Empty
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import Rounds
from fedcore.training.callbacks import LocalCallback
from fedcore.training.lr_schedule import Cosine
from fedcore.training.visit import Visit
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Hospitals, Toy, central, hospitals, local, with_callbacks

VISIT = Visit(batch_size=4, accelerator="cpu", keep_optimizer=True)


def run(names: str, rounds: int = 3, *callbacks: LocalCallback) -> tuple[Hospitals, list[RoundRecord]]:
    algorithm, records = LocalOnly(), list[RoundRecord]()
    transport = with_callbacks(Hospitals(hospitals(names), local(VISIT, share=())), *callbacks)
    state = federate(
        algorithm, transport, algorithm.start(transport.local), Rounds(rounds), 0,
        finished=lambda record, state: records.append(record),
    )  # fmt: skip
    assert state == Empty()
    return transport, records


def test_each_site_trains_exactly_as_central_training_on_its_images() -> None:
    transport, _ = run("abc")
    for site, data in hospitals("abc").items():
        memory = transport.memories.get(site)
        module = {k.removeprefix("module/"): t for k, t in memory.items() if k.startswith("module/")}
        assert same(module, central(Toy(), data, VISIT, rounds=3))


def test_nothing_but_metrics_leaves() -> None:
    _, records = run("ab")
    for site in (s for record in records for s in record.sites.values()):
        assert (site.up.weights, site.up.exchange, site.down.total) == (0, 0, 0)
        assert site.metrics.keys() == {"loss"}


def test_local_callbacks_act_on_local_training() -> None:
    scheduled, _ = run("a", 3, Cosine())
    assert not same(scheduled.memories.get("a"), run("a")[0].memories.get("a"))
