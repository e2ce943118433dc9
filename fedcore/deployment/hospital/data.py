"""`fedpretrain site data`: which images a hospital takes part with, and what it sends at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedcore.config.arguments import call
from fedcore.data.manifest.manifest import read_manifest
from fedcore.errors import InputError
from fedcore.messages.reveals import Reveals
from fedcore.site.home import SiteHome
from fedcore.site.settings import SETTINGS, set_data


def data(words: Sequence[str]) -> None:
    """`site data MANIFEST [--policy LEVEL] [--home FOLDER]`."""
    call(set_manifest, "site data", words)


def set_manifest(manifest: Path, policy: Reveals | None = None, home: Path = Path()) -> None:
    """Checks a manifest and writes it into site.yaml.

    Args:
        manifest: A CSV file with images of this site; the column `site` has the site's name.
        policy: The highest level of what this site sends; null: as it is.
        home: The site's folder.
    """
    site = SiteHome.open(home)
    settings = site.settings()
    path = manifest.absolute()
    found = read_manifest(path, settings.columns, on_error=settings.on_error)
    own = [row for row in found.rows if row.site == settings.name]
    names = sorted({row.site for row in found.rows})
    if not own:
        raise InputError(
            f"{manifest} must have rows of this site, {settings.name!r}, in the column {settings.columns.site!r}; it "
            f"has {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}: write the name of the site's "
            "certificate there"
        )
    written = set_data(site.path, path, policy)
    splits = Counter(row.split for row in own)
    print(f"{site.path / SETTINGS}: {len(own)} images ({', '.join(f'{n} {split}' for split, n in splits.items())})")
    if others := len(found.rows) - len(own):
        print(f"note: {others} rows of other sites are not used")
    if not found.has_split:
        print(f"note: without a column 'split', {written.test_fraction:.0%} of the patients are held out for tests")
    print(f"what this site sends at most: {written.policy.max_level.name}")
    print(f"check the images: fedpretrain data check {manifest}")
