"""Licences that somebody has to accept before a model runs; the acceptance lies beside the package."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from dicomnode.errors import ModelError, Unavailable
from dicomnode.models.store import ModelPackage

_ACCEPTED = "licence-accepted.json"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Who accepted which licence of which weights, and when."""

    licence: str
    text: str
    weights_sha256: str
    by: str
    at: str  # ISO 8601


def require_licence(package: ModelPackage) -> None:
    """Return if the model may be run: its licence needs no acceptance, or has it for these very weights.

    Raises:
        ModelError: it was not accepted; says how that is done.
    """
    licence, name = package.manifest.licence, package.manifest.name
    if licence.must_be_accepted and accepted_by(package) is None:
        raise ModelError(
            f"model {name!r} is under the licence {licence.name!r}, which was not accepted for these weights; read it "
            f"with 'dicomnode models show {name}', then 'dicomnode models accept-licence {name} --by NAME'"
        )


def accepted_by(package: ModelPackage) -> str | None:
    """Who accepted the package's licence in these words for these very weights; None: nobody."""
    licence, accepted = package.manifest.licence, read_acceptance(package)
    wanted = (licence.name, licence.text or "", package.manifest.digest)
    if accepted is None or (accepted.licence, accepted.text, accepted.weights_sha256) != wanted:
        return None
    return accepted.by


def accept_licence(package: ModelPackage, by: str, at: datetime) -> Acceptance:
    """Write down that the package's licence is accepted.

    Raises:
        ModelError: nothing has to be accepted, or nobody is named.
        Unavailable: the disk does not take it.
    """
    manifest = package.manifest
    if not manifest.licence.must_be_accepted:
        raise ModelError(f"model {manifest.name!r} is under {manifest.licence.name!r}: nothing has to be accepted")
    if not by.strip():
        raise ModelError("expected the name of who accepts the licence, found none; say it with --by NAME")
    licence = manifest.licence
    acceptance = Acceptance(licence.name, licence.text or "", manifest.digest, by.strip(), at.isoformat())
    try:
        temporary = _path(package).with_name(f".{_ACCEPTED}")
        temporary.write_text(json.dumps(asdict(acceptance), indent=2), encoding="utf-8")
        temporary.replace(_path(package))
    except OSError as error:
        raise Unavailable(f"the acceptance cannot be written: {error.strerror}") from error
    return acceptance


def read_acceptance(package: ModelPackage) -> Acceptance | None:
    """The acceptance that lies beside the package; None where there is none that can be read."""
    try:
        return Acceptance(**json.loads(_path(package).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _path(package: ModelPackage) -> Path:
    return package.folder / _ACCEPTED
