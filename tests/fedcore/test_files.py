from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import InputError
from fedcore.files import explained, require_writable, write_atomically, write_json


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
def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: Any, step: str) -> None:
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
