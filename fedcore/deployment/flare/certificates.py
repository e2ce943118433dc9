"""Keys, certificates and kits, by FLARE's own tools. A private key never leaves the folder in which it was made."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.errors import InputError
from fedcore.files.reading import parse_json, parse_yaml
from fedcore.files.writing import write_atomically, write_json

LARGEST = 1 << 20
"""Bytes of a request or of a signed answer, and of each file in it."""
PROFILE = "profile.yaml"
_TIMEOUT = 120


@dataclass(frozen=True)
class CertificateRequest:
    """A file that asks for a certificate: names and a public key."""

    deployment: str
    name: str
    kind: str
    """`client` for a site, `server` or `admin`."""
    digest: str
    """SHA-256 of the request for a signature, which both sides compare by phone."""

    @classmethod
    def read(cls, path: Path) -> CertificateRequest:
        """Raises InputError where the file is no such request, or its parts do not agree."""
        files = _files_of(path)
        about, site = parse_json(_text(files, "request.json", path)), parse_yaml(_text(files, "site.yaml", path))
        try:
            (participant,) = site["participants"]
            name, kind = str(about["name"]), str(participant["type"])
            digest = hashlib.sha256(files[f"{name}.csr"]).hexdigest()
            agree = (site["name"], participant["name"], about["csr_sha256"]) == (about["project"], name, digest)
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(f"{path} is no certificate request; ask for the file that `site new` wrote") from e
        if not agree:
            raise InputError(f"{path} was changed: its parts do not agree; ask the site to send it again")
        return cls(str(about["project"]), name, kind, digest)


def make_root(folder: Path, deployment: str, host: str, port: int) -> str:
    """Creates the authority of a deployment in `folder/ca`; returns the fingerprint of its certificate."""
    profile = {
        "name": deployment, "scheme": "grpc", "connection_security": "mtls",
        "server": {"host": host, "fed_learn_port": port, "admin_port": port},
    }  # fmt: skip
    write_json(folder / PROFILE, profile)
    # Without --org: with one, the root's issuer is not its subject, and no chain of certificates is valid.
    made = _nvflare(folder, "cert", "init", "--profile", str(folder / PROFILE), "-o", str(folder / "ca"))
    return plain_fingerprint(str(made["rootca_fingerprint_sha256"]))


def make_request(folder: Path, deployment: str, participant: Mapping[str, Any]) -> Path:
    """Creates a private key and a request in `folder`, which must not exist; returns the file to send."""
    name = participant["name"]
    with tempfile.TemporaryDirectory() as temporary:
        wanted = Path(temporary) / "participant.yaml"
        write_json(wanted, {"name": deployment, "participants": [dict(participant)]})
        _nvflare(folder.parent, "cert", "request", "-p", str(wanted), "--out", str(folder))
    folder.chmod(0o700)
    return folder / f"{name}.request.zip"


def sign(folder: Path, request: Path, out: Path) -> Path:
    """Signs a request with the authority in `folder`; `out` is the file to send back."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        signed = Path(temporary) / "signed.zip"
        words = ("cert", "approve", str(request.absolute()), "-c", str(folder / "ca"), "--out", str(signed))
        _nvflare(folder, *words, "--profile", str(folder / PROFILE))
        write_atomically(out, signed.read_bytes())
    return out


def install_kit(signed: Path, request_folder: Path, fingerprint: str, kit: Path) -> None:
    """Makes the kit of a participant from a signed request and the private key in `request_folder`.

    Raises:
        InputError: The authority is another one than `fingerprint` says, or the file does not belong to this key.
    """
    with tempfile.TemporaryDirectory(dir=kit.parent) as temporary:
        words = ("package", str(signed.absolute()), "--fingerprint", fingerprint, "--request-dir", str(request_folder))
        made = _nvflare(kit.parent, *words, "-w", temporary)
        shutil.move(str(made["output_dir"]), kit)
    for path in (kit, *kit.rglob("*")):
        path.chmod(0o700 if path.is_dir() or path.suffix == ".sh" else 0o600)


def root_fingerprint(signed: Path) -> str:
    """Of the authority's certificate in a signed file."""
    return fingerprint_of(_text(_files_of(signed), "rootCA.pem", signed).encode())


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a PEM certificate, as `AB:CD:...`."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509 import load_pem_x509_certificate

    try:
        found = load_pem_x509_certificate(certificate).fingerprint(SHA256())
    except ValueError as e:
        raise InputError("a certificate in the file cannot be read; ask for the file again") from e
    return found.hex(":").upper()


def plain_fingerprint(text: str) -> str:
    """A fingerprint as people type it, in the one form `AB:CD:...`.

    Raises:
        InputError: It has not 32 bytes.
    """
    digits = text.upper().removeprefix("SHA256:").replace(":", "").replace(" ", "")
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        found = b""
    if len(found) != hashlib.sha256().digest_size:
        raise InputError(f"a fingerprint has 32 pairs of hexadecimal digits, such as 38:D8:..., got {text!r}")
    return found.hex(":").upper()


def _nvflare(folder: Path, *words: str) -> dict[str, Any]:
    """What a command of FLARE gives. Its own records go to `folder`, not to the home directory."""
    environment = os.environ | {"HOME": str(folder)}
    command = [sys.executable, "-m", "nvflare.cli", "--format", "json", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_TIMEOUT, env=environment, check=False, cwd=folder,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    line = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "{}")
    result = json.loads(line)
    if result.get("status") != "ok":
        reason = " ".join(filter(None, (result.get("message"), result.get("hint")))) or done.stderr.strip()[-300:]
        raise InputError(f"nvflare {words[0]} {words[1] if words[0] == 'cert' else ''} failed: {reason}")
    return dict(result["data"])


def _files_of(path: Path) -> dict[str, bytes]:
    """The files in a zip file that another machine sent; nothing is unpacked to the disk."""
    try:
        data = path.read_bytes()
        if len(data) > LARGEST:
            raise InputError(f"{path} has {len(data)} bytes, at most {LARGEST} are read")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.file_size > LARGEST for entry in archive.infolist()):
                raise InputError(f"{path} has a file of more than {LARGEST} bytes")
            return {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as e:
        raise InputError(f"{path} is no zip file ({type(e).__name__}); give the file as it was sent") from e


def _text(files: Mapping[str, bytes], name: str, path: Path) -> str:
    if name not in files:
        raise InputError(f"{path} holds no {name}; give the file as it was sent")
    try:
        return files[name].decode()
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: {name} is no text; give the file as it was sent") from e
