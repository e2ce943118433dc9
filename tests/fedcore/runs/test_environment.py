from __future__ import annotations

import getpass
import json
import platform
import re
from pathlib import Path

from fedcore.runs.environment import PACKAGES, environment, version


def test_versions_of_what_has_an_influence() -> None:
    found = environment()
    assert {name.replace("-", "_") for name in PACKAGES} <= found.keys()
    assert found["torch"] == version("torch")
    assert found["python"] == platform.python_version()
    assert version("no-such-package-as-this") is None


def test_no_host_no_user_no_path() -> None:
    """The file travels with a checkpoint; only short words such as `root` may be within other words."""
    told = json.dumps(environment())
    words = set(re.findall(r"[\w.-]+", told))
    assert platform.node() not in words
    assert getpass.getuser() not in words
    assert str(Path.home()) not in told
    assert "/" not in told
