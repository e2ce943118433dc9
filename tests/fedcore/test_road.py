from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore import road
from fedcore.data.phantom import Phantoms
from fedcore.errors import Faults, InputError
from fedcore.road import Road, command, read_road

ROAD = """
shared: {data.size: 32, seed: 1}
steps:
  encoder: {do: pretrain simclr, rounds.count: 2}
  drawn: {do: "generate sample {encoder} {here}", count: 8}
  audit: {do: "generate audit {encoder} {drawn}"}
  tuned: {do: finetune classify, start: "{encoder}", each: {label_fraction: [0.1, 1.0], seed: [0, 1]}}
  released: {do: "generate release {drawn} {here}", after: audit}
"""
Done = list[tuple[str, list[str]]]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """What was dispatched; nothing is done, and no report is made of it."""
    found: Done = []
    monkeypatch.setattr(road, "dispatch", lambda name, words: found.append((name, words)) or 0)
    monkeypatch.setattr(Road, "_report", lambda *_: None)
    return found


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "road.yaml").write_text(text)
        return tmp_path / "road.yaml"

    return write


def test_steps_are_commands_with_the_folders_of_earlier_ones(
    done: Done, written: Callable[[str], Path], tmp_path: Path
) -> None:
    assert Road(tmp_path / "out").run(read_road(written(ROAD), {"data.size": "48"})) == 0
    names = [name for name, _ in done]
    assert names == ["pretrain", "generate", "generate", *["finetune"] * 4, "generate"]
    encoder = done[0][1][done[0][1].index("--out") + 1]
    assert done[0][1] == ["simclr", "--data.size", "48", "--seed", "1", "--rounds.count", "2", "--out", encoder,
                          "--resume", "true"]  # fmt: skip
    drawn = done[1][1][2]
    assert done[1][1] == ["sample", encoder, drawn, "--count", "8"]
    assert done[2][1] == ["audit", encoder, drawn]
    tuned = [words for name, words in done if name == "finetune"]
    asked = [(w[w.index("--label_fraction") + 1], w[w.index("--seed") + 1]) for w in tuned]
    assert asked == [("0.1", "0"), ("0.1", "1"), ("1.0", "0"), ("1.0", "1")]
    assert all(words[words.index("--start") + 1] == encoder for words in tuned)
    assert len({words[words.index("--out") + 1] for words in tuned}) == 4


def test_what_is_done_is_not_repeated_and_what_changed_is_done_elsewhere(
    done: Done, written: Callable[[str], Path], tmp_path: Path
) -> None:
    first = Road(tmp_path / "out").run(read_road(written(ROAD), {}))
    count = len(done)
    assert (first, Road(tmp_path / "out").run(read_road(written(ROAD), {})), len(done)) == (0, 0, count)
    Road(tmp_path / "out").run(read_road(written(ROAD.replace("count: 8", "count: 9")), {}))
    assert [name for name, _ in done[count:]] == ["generate"] * 3  # the set, its audit and its release
    assert done[count][1][2] != done[1][1][2]
    again = len(done)
    Road(tmp_path / "out").run(read_road(written(ROAD), {"seed": "2"}))
    assert len(done) - again == 8  # the encoder, and all that stands on it
    last = len(done)
    Road(tmp_path / "out").run(read_road(written(ROAD), {}))
    assert len(done) == last  # as at first, whatever was done in between


def test_an_image_that_changed_is_an_input_that_changed(
    done: Done, written: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPRETRAIN_CACHE", str(tmp_path / "cache"))
    manifest = Phantoms(sites=1, images_per_site=4).write(tmp_path / "pictures", 32)
    path = written("steps: {encoder: {do: pretrain simclr}}")
    asked = {"data.manifest": str(manifest)}
    for expected in (1, 1):
        Road(tmp_path / "out").run(read_road(path, asked))
        assert len(done) == expected
    picture = tmp_path / "pictures" / "hospital_1" / "00001.png"
    picture.write_bytes((tmp_path / "pictures" / "hospital_1" / "00002.png").read_bytes())
    Road(tmp_path / "out").run(read_road(path, asked))
    assert len(done) == 2


def test_what_needs_a_failed_step_is_left_out_and_all_else_is_done(
    done: Done, written: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refusing(name: str, words: list[str]) -> int:
        done.append((name, words))
        if words[0] == "audit":
            raise InputError("too few images")
        return 0

    monkeypatch.setattr(road, "dispatch", refusing)
    steps = read_road(written(ROAD), {})
    assert Road(tmp_path / "out").run(steps) == 2
    assert [words[0] for name, words in done if name == "generate"] == ["sample", "audit"]
    assert sum(name == "finetune" for name, _ in done) == 4
    told = capsys.readouterr().out
    assert "audit: too few images" in told
    assert "released: left out, since audit failed" in told
    ledger = json.loads((tmp_path / "out" / "road.json").read_text())
    assert {about["step"].split("_")[0] for about in ledger.values()} == {"encoder", "drawn", "tuned"}


def test_all_that_is_wrong_with_a_road_is_told(written: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="is no road: it must hold `steps`"):
        read_road(written("method: fedssl.simclr.SimCLR"), {})
    with pytest.raises(Faults, match=r"a: a step is a mapping with `do`[\s\S]*b: a step is"):
        read_road(written("steps: {a: 3, b: {count: 4}}"), {})
    with pytest.raises(Faults, match="tuned: no step before it is called 'encoder'"):
        read_road(written('steps: {tuned: {do: finetune classify, start: "{encoder}"}}'), {})
    with pytest.raises(InputError, match="pairs of --KEY VALUE"):
        command([str(written(ROAD)), "--data.size"])
