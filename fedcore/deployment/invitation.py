"""What the coordinator sends to a hospital first: a text with addresses and no secret."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from fedcore.deployment.names import require_host, require_name, require_port
from fedcore.errors import InputError
from fedcore.files.reading import read_yaml

FILE = "invitation.yaml"


@dataclass(frozen=True)
class Invitation:
    deployment: str
    site: str
    """Name of the site, as it must be in its manifest."""
    host: str
    port: int
    fingerprint: str
    """SHA-256 of the certificate of the deployment's authority, to be compared by phone."""
    versions: tuple[str, ...]
    """`package version` that the coordinator runs."""

    @classmethod
    def read(cls, path: Path) -> Invitation:
        """Raises InputError where the file is no invitation."""
        tree = read_yaml(path, "ask the coordinator to send the invitation again")
        fields = {"deployment": str, "site": str, "host": str, "port": int, "fingerprint": str, "versions": list}
        wrong = [name for name, kind in fields.items() if not isinstance(tree.get(name), kind)]
        if wrong or tree.keys() - fields.keys():
            raise InputError(
                f"{path} is no invitation (see {', '.join([*wrong, *sorted(tree.keys() - fields.keys())][:3])}); "
                "ask the coordinator to send it again"
            )
        found = cls(**{**tree, "versions": tuple(map(str, tree["versions"]))})
        require_name(found.deployment, "deployment")
        require_name(found.site, "site")
        require_host(found.host)
        require_port(found.port)
        return found

    def text(self) -> str:
        """The content of the file."""
        head = (
            f"# Invitation to {self.deployment}. At {self.site} run: fedpretrain site new {self.site}.invitation.yaml\n"
        )
        return head + yaml.safe_dump(asdict(self) | {"versions": list(self.versions)}, sort_keys=False)
