from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.errors import InputError
from fedcore.files.writing import (
    append,
    explained,
    replacing,
    require_no_links,
    require_writable,
    sync,
    write_arrays,
    write_atomically,
    write_json,
)


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "deep" / "er" / "file"
    write_atomically(path, b"old", durable)
    write_atomically(path, b"new", durable)
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_json_ends_in_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_failed_write_leaves_the_old_file_only(tmp_path: Path, monkeypatch: Any, step: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\); choose another folder"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_much_is_needed(code: int) -> None:
    text = str(explained(OSError(code, os.strerror(code)), Path("x/y"), 2_500_000))
    assert text.startswith("the disk is full: x/y needs 2.5 MB; free some space")


def test_a_folder_that_could_be_made_is_not_made(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"must be a folder, but .*file is a file"):
            require_writable(folder)


def test_a_folder_without_rights(tmp_path: Path, monkeypatch: Any) -> None:
    """The rights are pretended: whoever runs the tests may have them all."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=rf"{tmp_path} cannot be written; choose another folder or change its rights"):
        require_writable(tmp_path / "run")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    precious, path = tmp_path / "precious", tmp_path / "run" / "file"
    precious.write_text("kept")
    path.parent.mkdir()
    path.symlink_to(precious)
    (path.parent / ".file.part").symlink_to(precious)
    write_atomically(path, b"new")
    assert precious.read_text() == "kept"
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    assert list(path.parent.iterdir()) == [path]


def test_a_file_of_another_program_is_complete_or_absent(tmp_path: Path) -> None:
    with replacing(tmp_path / "deep" / "x.onnx") as part:
        part.write_bytes(b"whole")
    assert (tmp_path / "deep" / "x.onnx").read_bytes() == b"whole"

    def fail(error: Exception) -> None:
        with replacing(tmp_path / "deep" / "x.onnx") as part:
            part.write_bytes(b"ha")
            raise error

    with pytest.raises(InputError, match=r"the disk is full: .*x\.onnx does not fit"):
        fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())
    assert {p.name: p.read_bytes() for p in (tmp_path / "deep").iterdir()} == {"x.onnx": b"whole"}


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 127, "short"])
def test_the_longest_names_are_written(tmp_path: Path, name: str) -> None:
    write_atomically(tmp_path / name, b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"whole")]


def test_a_name_that_is_too_long_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the file name 'xxx.*' is too long here"):
        write_atomically(tmp_path / ("x" * 256), b"whole")
    assert list(tmp_path.iterdir()) == []


def test_lines_are_added(tmp_path: Path) -> None:
    for durable in (False, True):
        append(tmp_path / "deep" / "lines", "one\n", durable)
    assert (tmp_path / "deep" / "lines").read_text() == "one\none\n"
    for half in ("tw", "one\ntw", "", "one\n"):  # as a killed process may leave it
        (tmp_path / "half").write_text(half)
        append(tmp_path / "half", "three\n")
        assert (tmp_path / "half").read_text() == half.removesuffix("tw") + "three\n"
    (tmp_path / "lines").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        append(tmp_path / "lines", "one\n")


def test_arrays(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", a=np.arange(3), b=np.eye(2))
    with np.load(tmp_path / "x.npz") as held:
        assert {name: held[name].tolist() for name in held} == {"a": [0, 1, 2], "b": [[1, 0], [0, 1]]}


@pytest.mark.parametrize(("size", "text"), [(12, "12 bytes"), (1500, "1.5 kB"), (99_000, "99.0 kB"), (2e5, "0.2 MB")])
def test_sizes_are_never_zero(size: float, text: str) -> None:
    message = str(explained(OSError(errno.ENOSPC, ""), Path("x/y"), int(size)))
    assert f"x/y needs {text}; free some space" in message


def test_a_disk_that_cannot_sync_is_reported(tmp_path: Path, monkeypatch: Any) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"cannot be written \(Input/output error\)"):
        sync(tmp_path)


@pytest.mark.parametrize("name", ["x" * 256, "а" * 128, "nul\0"])
def test_a_name_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="at most 255 bytes long, without NUL"):
        require_writable(tmp_path / name / "run")
    require_writable(tmp_path / ("x" * 255))


@pytest.mark.parametrize("name", ["link", "a/b/link"])
def test_a_link_anywhere_in_a_folder_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "own" / "a" / "b").mkdir(parents=True)
    require_no_links(tmp_path / "own")
    require_no_links(tmp_path / "none")
    (tmp_path / "own" / name).symlink_to("nowhere")
    with pytest.raises(InputError, match=rf"{name} is a symbolic link"):
        require_no_links(tmp_path / "own")
