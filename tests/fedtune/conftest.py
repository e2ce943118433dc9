"""Toys that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedcore.data.dataset import Images
from tests.fedcore.toys import of_labels


@pytest.fixture
def images() -> Callable[..., Images]:
    return of_labels
