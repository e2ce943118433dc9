"""An audit at hospitals apart, by bytes alone, equals that of a simulation."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fedcore.config.recipe import Recipe, read_recipe
from fedcore.config.shared_recipe import SharedRecipe
from fedcore.config.stages import QUERIES, load_function, task_maker
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.errors import InputError
from fedcore.messages.reveals import Reveals
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.site.memory import FOLDER, MemoryOnDisk
from fedcore.site.own_data import OwnData
from fedcore.site.runtime import SiteRuntime
from fedcore.transport.in_process import InProcess
from fedgen.auditing.allowance import counted_audits, has_audited
from fedgen.auditing.command import audit_at
from fedgen.auditing.run import audit
from fedgen.releases.release import release
from fedgen.sampling import sample
from fedgen.serve import serve
from fedgen.synthetic.image_files import encoded
from fedgen.synthetic.synthetic_set import SyntheticSet
from fedgen.training import train
from tests.fedcore.site.test_own_data import split
from tests.runs import quick_galleries, seal

NAMES = ("hospital_1", "hospital_2")
RECIPE = {
    "generator": {
        "class_path": "fedgen.diffusion.diffusion.Diffusion",
        "init_args": {"network": {"class_path": "fedgen.diffusion.unet.UNet", "init_args": {"widths": [8]}}},
    },
    "label_fraction": 0.4,
    "data": {"size": 16},
    "policy": {"min_patients": 1},
    "visit": {"batch_size": 32, "accelerator": "cpu"},
    "rounds": {"count": 1},
}


@dataclass(frozen=True)
class Ran:
    """The same training twice, with a set of each."""

    base: Path
    manifests: dict[str, Path]
    shared: SharedRecipe

    def sites(self, **policy: Any) -> InProcess:
        """Each with its own manifest and folder, and a recipe that was built from the shared one."""
        return InProcess({name: self.site(name, **policy) for name in NAMES}, through_bytes=True)

    def site(self, name: str, **policy: Any) -> SiteRuntime:
        home = self.base / name
        values = {"data.manifest": str(self.manifests[name]), "visit.accelerator": "cpu"}
        built = self.shared.build(values)
        agreed = Policy(min_patients=1, **policy)
        own = OwnData(name, task_maker("generate train")(built), built["data"], agreed)
        memory = MemoryOnDisk(home / FOLDER)
        return SiteRuntime(name, own.facts, own.settle, agreed, memory, home, self.shared.digest)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    base = tmp_path_factory.mktemp("apart")
    manifest = Phantoms(sites=2, images_per_site=60, test_fraction=0.5).write(base / "phantoms", 16)
    some_for_validation(manifest)
    (base / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

    def recipe(out: str) -> Recipe:
        words = [str(base / "recipe.yaml"), "--out", str(base / out), "--data.manifest", str(manifest)]
        return read_recipe(train, "generate train", words)

    one = recipe("simulated")
    shared = SharedRecipe.of("generate train", one.text)
    made = Ran(base, split(manifest), shared)
    with quick_galleries():
        train(RunFolder(base / "simulated", one.text), **one.build())
        with RunFolder(base / "apart", recipe("apart").text, shared=shared.digest) as run:
            serve(run, made.sites(), recipe("apart").build())
    for name in ("simulated", "apart"):
        sample(base / name, base / f"{name}_set", 40, steps=2)
    torch.manual_seed(0)
    save_encoder(base / "encoder", ResNet(2, 1, depth=10, stem=2).eval(), {}, "a card")
    return made


def some_for_validation(manifest: Path) -> None:
    """Half of the test patients, which are held out, too."""
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    tested = sorted({row["patient"] for row in rows if row["split"] == "test"})
    for row in rows:
        if row["patient"] in tested[::2]:
            row["split"] = "val"
    with manifest.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def copied(ran: Ran, tmp_path: Path) -> Ran:
    """As `ran`, for a test to change."""
    return replace(ran, base=Path(shutil.copytree(ran.base, tmp_path / "base")))


def plant(ran: Ran, at: int, number: int) -> None:
    """Puts the image of a patient of hospital 1 into both sets."""
    image = replace(ran.shared.build({"data.manifest": str(ran.manifests[NAMES[0]])})["data"]).load()
    pixels = encoded(image.sites[NAMES[0]].select("train").batch([number])[0])[0]
    for name in ("simulated", "apart"):
        (ran.base / f"{name}_set" / "images" / f"{at:06d}.png").write_bytes(pixels)


@pytest.mark.parametrize("with_encoder", [False, True])
def test_an_audit_by_bytes_equals_that_of_a_simulation(
    copied: Ran, with_encoder: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    base = copied.base
    plant(copied, 5, 3)
    words = ["--encoder", str(base / "encoder")] if with_encoder else []
    together = audit(base / "simulated", base / "simulated_set", base / "encoder" if with_encoder else None)
    before = torch.get_rng_state()
    code = audit_at(copied.sites(), [str(base / "apart"), str(base / "apart_set"), *words])
    assert torch.equal(torch.get_rng_state(), before)
    apart = AuditRecord.read(base / "apart_set")
    # Each run names its images by a digest of its own, and so does each set.
    assert replace(apart, set=together.set, data=together.data) == together
    assert (apart.safe, apart.useful) == (together.safe, together.useful)
    assert code == 2
    assert "000005.png" in apart.copies
    assert apart.sites[NAMES[0]]["training_images"] == 30.0
    assert apart.sites[NAMES[0]]["held_out_images"] == 30.0
    if with_encoder:
        assert "tstr" in apart.sites[NAMES[0]]
        assert apart.quality["all"]["fid"] is not None
    assert (apart.set, apart.data) == (
        SyntheticSet.open(base / "apart_set").digest(),
        RunFolder(base / "apart").about()["data"],
    )
    assert json.loads((base / "apart" / "audit.json").read_text())["set"] == apart.set
    assert "Privacy check failed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_set_without_copies_ends_with_0(copied: Ran) -> None:
    base = copied.base
    assert audit_at(copied.sites(), [str(base / "apart"), str(base / "apart_set")]) == 0
    assert AuditRecord.read(base / "apart_set").safe.answer == "yes"


def test_run_json_counts_images_as_that_of_a_simulation(ran: Ran) -> None:
    """Validation images are held out for audits, and no test images."""
    apart, together = (RunFolder(ran.base / name).about() for name in ("apart", "simulated"))
    assert apart["sites"] == together["sites"]
    assert apart["sites"][NAMES[0]] == {"train": 30, "val": 16, "test": 14}
    page = json.loads((ran.base / NAMES[0] / "site.json").read_text())
    assert page["images"] == {"train": 30, "test": 14}


@pytest.mark.slow
def test_each_hospital_counts_audits_and_declines_more(copied: Ran) -> None:
    base = copied.base
    words = [str(base / "apart"), str(base / "apart_set")]
    audit_at(copied.sites(audits=1), words)
    audit_at(copied.sites(audits=1), words)
    record = AuditRecord.read(base / "apart_set")
    for name in NAMES:
        (entry,) = counted_audits(base / name)
        assert (entry["set"], entry["generator"]) == (record.set, record.generator)
        assert has_audited(base / name, record.set)
        assert not (base / name / "errors.jsonl").exists()
    with pytest.raises(InputError, match=r"hospital_1 could not be audited: it has answered 1 audits .* allows 1"):
        audit_at(copied.sites(audits=1), [*words, "--encoder", str(base / "encoder")])
    assert len(counted_audits(base / NAMES[0])) == 1


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"audits": 0}, "it has answered 0 audits"),
        ({"max_level": Reveals.WEIGHTS}, "AuditAnswer reveals FEATURES"),
    ],
)
def test_a_hospital_may_decline(copied: Ran, policy: dict[str, Any], reason: str) -> None:
    base = copied.base
    with pytest.raises(InputError, match=f"hospital_1 could not be audited: {reason}"):
        audit_at(copied.sites(**policy), [str(base / "apart"), str(base / "apart_set")])
    assert not (base / "apart_set" / "audit.json").exists()


def test_changed_images_of_a_hospital_are_refused(copied: Ran, tmp_path: Path) -> None:
    base = copied.base
    lines = copied.manifests[NAMES[0]].read_text().splitlines()
    fewer = copied.manifests[NAMES[0]].with_name("fewer.csv")
    fewer.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=r"hospital_1: its images have changed"):
        audit_at(
            replace(copied, manifests=copied.manifests | {NAMES[0]: fewer}).sites(),
            [str(base / "apart"), str(base / "apart_set")],
        )


def test_a_set_of_another_generator_is_refused_before_a_hospital_is_asked(copied: Ran) -> None:
    settings = copied.base / "apart_set" / "set.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"generator": "0" * 64}))
    with pytest.raises(InputError, match="was not generated by"):
        audit_at(InProcess({}), [str(copied.base / "apart"), str(copied.base / "apart_set")])


def test_the_kind_of_run_must_fit(copied: Ran) -> None:
    base = copied.base
    with pytest.raises(InputError, match="holds a simulated run, which has no sites on other machines; omit --at"):
        audit_at(InProcess({}), [str(base / "simulated"), str(base / "simulated_set")])
    with pytest.raises(InputError, match="are on machines of their own; name their deployment with --at"):
        audit(base / "apart", base / "apart_set")
    about = json.loads((base / "apart" / "run.json").read_text())
    (base / "apart" / "run.json").write_text(json.dumps(about | {"command": "finetune"}))
    seal(base / "apart")
    with pytest.raises(InputError, match="inverted images only a simulation can audit: omit --at"):
        audit_at(InProcess({}), [str(base / "apart"), str(base / "apart_set")])


def test_run_and_set_must_be_named(ran: Ran) -> None:
    with pytest.raises(InputError, match="takes a run and a set"):
        audit_at(InProcess({}), [str(ran.base / "apart")])


def test_the_command_is_known_by_its_words() -> None:
    assert load_function(QUERIES["generate audit"]) is audit_at


@pytest.mark.slow
def test_an_audited_set_is_released(copied: Ran, tmp_path: Path) -> None:
    base = copied.base
    audit_at(copied.sites(), [str(base / "apart"), str(base / "apart_set")])
    assert release(base / "apart_set", tmp_path / "released", allow_not_useful=True).exists()


def test_a_record_that_no_hospital_answered_for_is_not_released(copied: Ran, tmp_path: Path) -> None:
    base = copied.base
    audit_at(copied.sites(), [str(base / "apart"), str(base / "apart_set")])
    (base / "apart" / "answers.jsonl").write_text("")
    with pytest.raises(InputError, match="lists no audit of hospital_1"):
        release(base / "apart_set", tmp_path / "released", allow_not_useful=True)


@pytest.mark.slow
def test_copies_cannot_be_dropped_where_hospitals_are_apart(copied: Ran, tmp_path: Path) -> None:
    base = copied.base
    plant(copied, 5, 3)
    audit_at(copied.sites(), [str(base / "apart"), str(base / "apart_set")])
    with pytest.raises(InputError, match="may not be released") as error:
        release(base / "apart_set", tmp_path / "released", allow_not_useful=True)
    assert "--drop" not in str(error.value)
    with pytest.raises(InputError, match=r"--drop true audits again, and the sites of .* on machines of their own"):
        release(base / "apart_set", tmp_path / "released", drop=True, allow_not_useful=True)
