"""A deployment with one site that has joined, made once for several tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedcore.deployment.centre.folder import Centre
from fedcore.deployment.hospital.join import join, new_site
from fedcore.site.home import SiteHome


@dataclass(frozen=True)
class Joined:
    centre: Centre
    home: SiteHome
    request: Path
    signed: Path


def joined(folder: Path, name: str = "hospital_1") -> Joined:
    centre = Centre.init(folder / "brain", "localhost", 8123)
    home, request, _ = new_site(centre.invite(name), folder / name)
    _, signed = centre.sign(request)
    join(home, signed, centre.fingerprint)
    return Joined(centre, home, request, signed)
