from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedcore.cli import main as cli
from fedcore.config.stages import STAGES, load_function
from tests.fedcore.files.test_lock import held_elsewhere


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    code = caught.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*words) == 0
    text = capsys.readouterr().out
    listed = text.split("COMMAND ...\n\n")[1].split("\n\n")[0]
    assert {line.split()[0] for line in listed.splitlines()} == {name.split()[0] for name in {*STAGES, *cli.COMMANDS}}


def test_a_closed_reader_ends_the_command_quietly() -> None:
    """As `fedpretrain ... | head` does."""
    command = [sys.executable, "-c", "from fedcore.cli.main import main; main(['--help'])"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert (run.stderr.read(), run.wait()) == (b"", 1)


def test_help_imports_nothing_heavy() -> None:
    """Nothing heavy is imported; a process of its own, because this one has."""
    code = (
        "import sys\nfrom fedcore.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'numpy', 'lightly', 'matplotlib', 'jsonargparse', 'pytorch_lightning'}\n"
        "sys.exit(f'imported {heavy & sys.modules.keys()}' if heavy & sys.modules.keys() else 0)"
    )
    root = Path(cli.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_input_error_is_printed_on_stderr_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("rounds: {cuont: 3}\nzebra: 1\n")
    assert call("pretrain", "mine.yaml") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "fedpretrain: mine.yaml: 2 errors\n"
        "  unknown option 'rounds.cuont' (did you mean 'rounds.count'?)\n"
        "  unknown option 'zebra'\n"
    )
    assert [p.name for p in Path().iterdir()] == ["mine.yaml"]


def test_an_input_error_of_a_process() -> None:
    words = [sys.executable, "-c", "from fedcore.cli.main import main; main()", "pretrian"]
    done = subprocess.run(words, cwd=Path(cli.__file__).parents[1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "fedpretrain: there is no command 'pretrian' (did you mean 'pretrain'?); see fedpretrain --help"
    ]


def test_print_config_gives_a_whole_recipe_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("rounds: {count: 3}\n")
    assert call("pretrain", "mine.yaml", "--visit.batch_size", "5", "--print_config") == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert (tree["rounds"]["count"], tree["visit"]["batch_size"]) == (3, 5)
    assert tree["encoder"]["init_args"]["depth"]
    assert [p.name for p in Path().iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_explains_its_keys(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*stage.split(), "--help") == 0
    text = capsys.readouterr().out
    assert "--rounds.count" in text
    assert "Communication rounds." in text


def test_bad_input_makes_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("data: {manifest: none.csv}\n")
    assert call("pretrain", "mine.yaml", "--out", "run") == 2
    assert "none.csv" in capsys.readouterr().err
    assert not Path("run").exists()


def test_stopping(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "dispatch", stop)
    assert call("pretrain") == 130
    assert "from its last complete round, add --resume true" in capsys.readouterr().err


def test_another_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "dispatch", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["pretrain"])


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("fedpretrain ")


@pytest.mark.parametrize("path", [path for path, _ in (STAGES | cli.COMMANDS).values()])
def test_every_command_is_there(path: str) -> None:
    assert callable(load_function(path))


SUBCOMMANDS = {
    "generate": ("train", "sample", "audit", "release", "invert", "distil"),
    "data": ("check", "preview", "phantom"), "recipes": ("ls", "cp"),
    "deploy": ("init", "invite", "sign", "serve", "sites", "remove", "try"),
    "site": ("new", "join", "data", "check", "start", "recipes", "approve", "withdraw", "audit", "page"),
}  # fmt: skip


@pytest.mark.parametrize("words", [
    [name, *([sub] if sub else [])]
    for name in (*(n for n in STAGES if " " not in n), *cli.COMMANDS) for sub in ("", *SUBCOMMANDS.get(name, ()))
], ids=" ".join)  # fmt: skip
def test_help_of_every_command_does_nothing_else(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    trains = " ".join(words) in STAGES
    for more in ([], ["somewhere"])[: 1 if trains or words[-1] in SUBCOMMANDS else 2]:
        assert call(*words, *more, "--help") == 0
        assert capsys.readouterr().out.startswith("usage: fedpretrain " + words[0])
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "words", ["recipes ls", "--help", pytest.param("pretrain --print_config", marks=pytest.mark.slow)]
)
def test_a_reader_that_is_gone_ends_it_quietly(words: str) -> None:
    """As `| head` does: the reader has gone before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    called = [sys.executable, "-c", "from fedcore.cli.main import main; main()", *words.split()]
    done = subprocess.run(
        called, cwd=Path(cli.__file__).parents[1], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


def test_sigterm_stops_a_command_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(name: str, rest: list[str]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "dispatch", terminated)
    assert call("report") == 130
    assert "from its last complete round" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


SMALL = ["--data.size", "32", "--data.phantom.sites", "1", "--data.phantom.images_per_site", "8", "--rounds.count", "1"]


def test_a_run_that_another_process_writes_is_refused_and_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with held_elsewhere(Path("run")) as holder:
        assert call("pretrain", "--out", "run", *SMALL) == 2
        assert f"run is being written by process {holder.pid} on" in capsys.readouterr().err
        assert [path.name for path in Path("run").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "seed must lie in 0..2^63-1, got -1"),
        (["--seed", str(2**70)], "seed must lie in 0..2^63-1, got"),
        (["--data.seed", "-1"], "data.seed must lie in 0..2^63-1, got -1"),
        (["--out", "nul\0"], "without NUL"),
        (["--out", "x" * 300], "at most 255 bytes long"),
        (["--data.size", "1000000"], "size must give at most 1,073,741,824 pixels per image"),
        (["--visit.accelerator", "foo"], "visit.accelerator"),
    ],
)
def test_impossible_values_are_reported_before_anything_is_written(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("pretrain", *SMALL, *(["--out", "run"] if "--out" not in words else []), *words) == 2
    assert message in capsys.readouterr().err
    assert list(Path().iterdir()) == []
