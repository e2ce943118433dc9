from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.deployment.hospital.data import data
from fedcore.errors import InputError
from fedcore.messages.reveals import Reveals
from fedcore.site.home import SiteHome
from fedcore.site.settings import SETTINGS, settings_text
from tests.fedcore.site.homes import NAMES, two_manifests


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return two_manifests(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteHome:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / SETTINGS).write_text(settings_text(NAMES[0]))
    monkeypatch.chdir(folder)
    return SiteHome.open(folder)


def test_a_manifest_is_written_into_the_settings(
    home: SiteHome, manifests: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(manifests["all"].parent)
    data([manifests["all"].name, "--policy", "WEIGHTS", "--home", str(home.path)])
    settings = home.settings()
    assert settings.manifest == manifests["all"]
    assert settings.policy.max_level == Reveals.WEIGHTS
    out = capsys.readouterr().out
    assert "16 images (12 train, 4 test)" in out
    assert "16 rows of other sites are not used" in out
    assert "sends at most: WEIGHTS" in out


def test_without_a_level_the_policy_stays(home: SiteHome, manifests: dict[str, Path]) -> None:
    before = home.settings().policy
    data([str(manifests[NAMES[0]])])
    assert home.settings().policy == before


def test_a_manifest_of_another_site_is_refused_before_anything_is_written(
    home: SiteHome, manifests: dict[str, Path]
) -> None:
    before = (home.path / SETTINGS).read_text()
    with pytest.raises(InputError, match="must have rows of this site, 'hospital_1', in the column 'site'"):
        data([str(manifests[NAMES[1]])])
    with pytest.raises(InputError, match=r"absent\.csv"):
        data(["absent.csv"])
    with pytest.raises(InputError, match="policy must be one of WEIGHTS"):
        data([str(manifests[NAMES[0]]), "--policy", "ALL"])
    assert (home.path / SETTINGS).read_text() == before


def test_errors_of_the_manifest_are_told(home: SiteHome, manifests: dict[str, Path]) -> None:
    wrong = manifests["all"].with_name("wrong.csv")
    wrong.write_text(manifests["all"].read_text().replace(",train,", ",training,"))
    with pytest.raises(InputError, match=r"wrong\.csv: \d+ errors"):
        data([str(wrong)])
    assert home.settings().manifest is None
