"""The page of one site, made at the site from its own folder; it is never sent.

The farewell visit of a run writes it, and `fedpretrain report <run>/sites/<site>` writes it again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import Refused
from fedcore.files.writing import write_atomically, write_json
from fedcore.messages.agreement import Agreement
from fedcore.privacy.policy import Policy
from fedcore.report.read.site import SITE_FILE, read_site
from fedcore.report.render import site_page
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer

PAGE = "page.html"


@dataclass(frozen=True)
class SitePage:
    """The last of a site's own files (`fedcore.site.farewell`): it shows the others."""

    command: str
    agreement: Agreement

    @property
    def what(self) -> str:
        return "page"

    def make(self, site: Site, local: LocalTrainer) -> None:
        """Raises Refused where the site has no folder."""
        if site.folder is None:
            raise Refused("it has no folder")
        test = 0 if site.test is None else len(site.test.select("test"))
        about = {
            "site": site.name, "command": self.command, "images": {"train": site.size, "test": test},
            "classes": list(self.agreement.classes), "size": list(self.agreement.size),
            "channels": self.agreement.channels, "policy": _settings(site.policy),
        }  # fmt: skip
        write_json(site.folder / SITE_FILE, about)
        write_site_page(site.folder)


def write_site_page(folder: Path, images: bool = True, out: Path | None = None) -> Path:
    """Writes `page.html` into the folder of a site (or `out`), and returns its path.

    Args:
        folder: The site's own folder, such as `<run>/sites/<site>`.
        images: False: no pixel and nothing about single images.
        out: Another file.

    Raises:
        InputError: It is not the folder of a site.
    """
    path = out or folder / PAGE
    write_atomically(path, site_page(read_site(folder), images=images).encode("utf-8", errors="replace"))
    return path


def _settings(policy: Policy) -> dict[str, object]:
    return dataclasses.asdict(policy) | {"max_level": policy.max_level.name}
