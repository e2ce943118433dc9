"""`fedpretrain data`: check or preview a manifest, or write simulated hospitals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.config.arguments import call
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.tools.check import check_command
from fedcore.data.tools.preview import preview
from fedcore.errors import InputError
from fedcore.files.writing import require_writable
from fedcore.suggest import suggestion

USAGE = """usage: fedpretrain data check MANIFEST [--quick true]      all errors, by row
       fedpretrain data preview MANIFEST [--out preview.png]   a contact sheet, one row per site
       fedpretrain data phantom FOLDER [--sites 4]             writes simulated hospitals with a manifest"""


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["check", *rest]:
            return int(call(check_command, "data check", rest))
        case ["preview", *rest]:
            print(call(preview, "data preview", rest))
        case ["phantom", *rest]:
            print(call(phantom, "data phantom", rest))
        case ["-h" | "--help", *_] | []:
            print(USAGE)
        case [word, *_]:
            raise InputError(
                f"data has no command {word!r}{suggestion(word, ['check', 'preview', 'phantom'])}\n{USAGE}"
            )
    return 0


def phantom(
    folder: Path,
    sites: int = 4,
    images_per_site: int = 400,
    spatial_dims: int = 2,
    size: int = 64,
    seed: int = 0,
) -> Path:
    """Writes simulated hospitals as PNG (2D) or NIfTI (3D) with masks and a manifest.

    Args:
        folder: An empty or new folder.
        sites: Number of hospitals.
        images_per_site: Images per hospital.
        spatial_dims: 2 or 3.
        size: Pixels per side.
        seed: Seed of all random numbers.
    """
    require_writable(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name another folder")
    return Phantoms(sites, images_per_site, spatial_dims, seed).write(folder, size)
