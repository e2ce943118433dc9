from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.config.recipe_files import GROUPS, command, command_of, find, folder, purpose, shipped
from fedcore.config.stages import STAGES
from fedcore.errors import InputError


def test_the_list_shows_group_command_and_purpose_of_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line for line in lines if line.startswith("  ")]
    assert sorted(line.split()[0] for line in listed) == sorted(shipped())
    for line in listed:
        path = shipped()[line.split()[0]]
        assert " ".join(line.split()) == f"{path.stem} {command_of(path)} {' '.join(purpose(path).split())}"
    assert [line.split(":")[0] for line in lines if ": " in line and line[0] != " "][:-1] == list(GROUPS)
    for path in shipped().values():
        assert path.read_text().startswith("# ")
        assert len(purpose(path)) > 10


def test_groups_are_the_folders_of_recipes() -> None:
    assert {path.name for path in folder().iterdir() if path.is_dir()} == {*GROUPS}


def test_in_a_terminal_the_list_fits_its_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    command(["ls"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("      ") for line in lines)


def test_every_recipe_names_its_command() -> None:
    assert {command_of(path) for path in shipped().values()} == {*STAGES, "run"}
    assert command_of(shipped()["latent_diffusion"]) == "generate train"


def test_a_file_is_preferred_to_an_included_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, path = next(iter(shipped().items()))
    assert find(name) == find(f"{name}.yaml") == path
    Path(f"{name}.yaml").touch()
    assert find(f"{name}.yaml") == Path(f"{name}.yaml")


def test_copying_to_a_folder_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, source = next(iter(shipped().items()))
    command(["cp", name])
    command(["cp", name, "deep/mine.yaml"])
    for copy in (Path(source.name), Path("deep/mine.yaml")):
        assert copy.read_bytes() == source.read_bytes()


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    name, source = next(iter(shipped().items()))
    (tmp_path / source.name).write_text("edited")
    with pytest.raises(InputError, match="exists; name another file"):
        command(["cp", name, str(tmp_path)])
    assert (tmp_path / source.name).read_text() == "edited"


@pytest.mark.parametrize("words", [[], ["cp"], ["cp", "a", "b", "c"], ["rm", "x"]])
def test_wrong_arguments(words: list[str]) -> None:
    with pytest.raises(InputError, match="recipes needs ls or cp"):
        command(words)


def test_an_unknown_name() -> None:
    with pytest.raises(InputError, match=r"no recipe 'demo_pretran' \(did you mean 'demo_pretrain'\?\)"):
        command(["cp", "demo_pretran"])


def test_a_copy_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        command(["cp", next(iter(shipped())), str(tmp_path / "file" / "mine.yaml")])
