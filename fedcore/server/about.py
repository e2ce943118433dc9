"""What `run.json` says of images that the server never sees: what their sites said of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fedcore.messages.agreement import Agreement, Facts


def about_of(facts: Mapping[str, Facts], agreement: Agreement) -> dict[str, Any]:
    """As `fedcore.data.describe.describe`, where all images are in one process. Numbers of images are as the sites'
    policies let them be known; `data` is another one when a site's images change."""
    digests = repr([(site, of.data) for site, of in facts.items()])
    return {
        "sites": {site: {"train": of.train, "val": of.val, "test": of.test} for site, of in facts.items()},
        "classes": list(agreement.classes), "size": list(agreement.size), "channels": agreement.channels,
        "notes": [], "skipped": [], "data": hashlib.sha256(digests.encode()).hexdigest()[:16],
    }  # fmt: skip
