"""The parts of `site.memory`, the tensors that a site keeps between visits, by the prefix of their names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedcore.messages.tensors import Tensors

MODULE = "module/"
"""State of the module that does not travel."""
OPTIMIZER = "optimizer/"
"""State of the optimizer (`visit.keep_optimizer`)."""
PERSONAL = "personal/"
"""A model that the site trains for itself (`fedcore.algorithms.ditto`)."""
OWN = "own/"
"""The site's weights at the end of its last visit, from which its next visit starts
(`fedssl.federation.personalised_start`)."""


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors whose names start with `prefix`, named without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def personal_weights(memory: Tensors) -> Tensors:
    """What a site has of its own in place of tensors that travel, by the module's names; it is evaluated with these."""
    return with_prefix(OWN, memory) | with_prefix(PERSONAL, memory)
