from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from fedcore.errors import Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.farewell import FarewellNotes
from fedcore.messages.message import Weights
from fedcore.messages.request import FAREWELL, Counted
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.server.farewell import Farewells, say_farewell
from fedcore.site.farewell import Farewell, own_part
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from tests.fedcore.federating import same
from tests.fedcore.toy_exchanges import Sender
from tests.fedcore.toys import Hospitals, Remembered, at, hospitals, local

TURN = Round(3, 3, 0)


@dataclass
class Makes:
    """Notes with what weights it was made."""

    what: str = "gallery"
    fails: Exception | None = None
    with_weights: dict[str, Tensors] = field(default_factory=dict)

    def make(self, site: Site, local: LocalTrainer) -> None:
        self.with_weights[site.name] = local.shared()
        with torch.no_grad():
            local.module.layer.weight.zero_()  # type: ignore[union-attr, operator]
        if self.fails:
            raise self.fails


def visited(farewell: Farewell, site: Site, local: LocalTrainer) -> FarewellNotes:
    return farewell.visit(site, Weights(local.shared()), local, TURN).message


def test_every_file_is_made_with_the_final_weights_and_the_module_holds_them_again() -> None:
    trainer, files = local(), (Makes("gallery"), Makes("samples"))
    weights = trainer.shared()
    assert visited(Farewell(files), at("a"), trainer) == FarewellNotes((), False)
    assert all(same(file.with_weights["a"], weights) for file in files)
    assert same(trainer.shared(), weights)


def test_files_are_made_with_the_sites_personal_model() -> None:
    trainer, file, site = local(), Makes(), at("a")
    own = torch.ones(3, 64)
    site.memory = {"personal/layer.weight": own}
    weights = trainer.shared()
    visited(Farewell((file,)), site, trainer)
    assert same(file.with_weights["a"], weights | {"layer.weight": own})
    assert same(trainer.shared(), weights)


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (Refused("it has no folder"), "no gallery of a: it has no folder"),
        (ValueError("Jane Doe, row 3"), "no gallery of a: ValueError"),
        (OSError("disk full at /home/jane"), "no gallery of a: OSError"),
        (MemoryError(), "no gallery of a: MemoryError"),
    ],
    ids=repr,
)
def test_what_cannot_be_made_is_a_note_without_its_text_and_the_others_are_made(error: Exception, note: str) -> None:
    other = Makes("samples")
    said = visited(Farewell((Makes("gallery", error), other)), at("a"), local())
    assert said.notes == (note,)
    assert other.with_weights.keys() == {"a"}


def test_stopping_is_no_note() -> None:
    with pytest.raises(KeyboardInterrupt):
        visited(Farewell((Makes(fails=KeyboardInterrupt()),)), at("a"), local())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("memory", "owner"),
    [("module/layer.weight", True), ("personal/layer.weight", True), ("own/layer.bias", True),
     ("module/seen", False), ("optimizer/layer.weight", False), ("control/layer.weight", False)],
)  # fmt: skip
def test_a_site_owns_a_model_where_its_memory_has_a_part_of_it(memory: str, owner: bool) -> None:
    site = at("a")
    site.memory = {memory: torch.zeros(3, 64) if "weight" in memory else torch.zeros(3)}
    assert visited(Farewell((), own="layer."), site, local()).own_model == owner


def test_the_own_part_has_the_modules_names() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    memory = {"module/bank": one, "personal/layer.weight": two, "own/norm.weight": one, "optimizer/x": two}
    assert own_part(memory) == {"bank": one, "layer.weight": two, "norm.weight": one}


def asked(hospitals_of: Hospitals, farewell: object) -> Farewells:
    return say_farewell(
        hospitals_of.sites(**{FAREWELL: farewell}), hospitals_of.local.shared(), hospitals_of.names(), TURN
    )


def test_the_server_gathers_notes_and_owners_through_bytes(tmp_path: Path) -> None:
    remembered = Remembered({"b": {"personal/layer.weight": torch.ones(3, 64)}})
    sites = Hospitals(hospitals("ab"), local(), memories=remembered, folder=tmp_path, through_bytes=True)
    found = asked(sites, Farewell((Makes(fails=Refused("no labels")),)))
    assert found == Farewells(["no gallery of a: no labels", "no gallery of b: no labels"], ["b"])
    assert remembered.counted == {"b": Counted(-1, True)}


def test_a_site_that_declines_is_a_note_and_the_run_goes_on() -> None:
    said = FarewellNotes((), False)
    found = asked(Hospitals(hospitals("ab"), local()), Sender({"a": ValueError("Jane Doe"), "b": said}))
    assert found.owners == []
    (note,) = found.notes
    assert note == "a wrote no files for its report: ValueError during farewell; see errors.jsonl of the site"


def test_notes_are_printed_without_control_characters() -> None:
    said = FarewellNotes(("no\x1b[2J gallery",), False)
    assert asked(Hospitals(hospitals("a"), local()), Sender({"a": said})).notes == ["no [2J gallery"]


def test_an_answer_that_is_no_farewell_is_a_note() -> None:
    trainer = local()
    found = asked(Hospitals(hospitals("a"), trainer), Sender({"a": Weights(trainer.shared())}))
    why = "its answer was rejected: it holds Weights instead of the requested FarewellNotes"
    assert found == Farewells([f"a wrote no files for its report: {why}"], [])


def test_a_farewell_sends_no_count_and_no_metric() -> None:
    answer = Farewell(()).visit(at("a"), Weights({}), local(), TURN)
    assert isinstance(answer, Contribution)
    assert (answer.examples, answer.metrics) == (0, {})
