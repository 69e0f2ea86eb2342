"""A licence that has to be accepted is accepted by somebody, for these weights, or the model does not run."""

from pathlib import Path

import pytest

from dicomnode.errors import ModelError
from dicomnode.models import ModelPackage
from dicomnode.models.licences import accept_licence, accepted_by, read_acceptance, require_licence
from dicomnode.steps.recorder import now
from tests.toy_models import bright_where, toy_manifest, write_package

TEXT = "https://example.org/licence"


def package(folder: Path, steepness: float = 1.0, name: str = "Research only", text: str = TEXT) -> ModelPackage:
    manifest = {**toy_manifest(), "licence": {"name": name, "must_be_accepted": True, "text": text}}
    return write_package(folder, manifest, bright_where(steepness))


def test_a_licence_that_asks_for_nothing_lets_the_model_run(tmp_path: Path):
    free = write_package(tmp_path, toy_manifest())
    require_licence(free)
    with pytest.raises(ModelError, match="model 'toy' is under 'MIT': nothing has to be accepted"):
        accept_licence(free, "Somebody", now())


def test_a_licence_is_asked_for_until_somebody_accepts_it(tmp_path: Path):
    with pytest.raises(ModelError, match=r"'Research only', which was not accepted .*accept-licence toy --by NAME"):
        require_licence(package(tmp_path))
    at = now()
    accepted = accept_licence(package(tmp_path), "  Dr Somebody ", at)
    require_licence(package(tmp_path))
    assert read_acceptance(package(tmp_path)) == accepted
    assert (accepted.by, accepted.text, accepted.at) == ("Dr Somebody", TEXT, at.isoformat())
    assert accepted_by(package(tmp_path)) == "Dr Somebody"
    assert accepted_by(package(tmp_path, text="other")) is None


def test_nobody_cannot_accept(tmp_path: Path):
    with pytest.raises(ModelError, match="expected the name of who accepts the licence, found none; say it with --by"):
        accept_licence(package(tmp_path), "  ", now())


@pytest.mark.parametrize("change", [{"steepness": 2.0}, {"name": "Other"}, {"text": "other"}])
def test_an_acceptance_is_of_these_weights_and_these_words(tmp_path: Path, change: dict[str, float | str]):
    accept_licence(package(tmp_path), "Somebody", now())
    with pytest.raises(ModelError, match="was not accepted for these weights"):
        require_licence(package(tmp_path, **change))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"licence": "Research only"}', b"\xff", b"3"])
def test_an_acceptance_that_cannot_be_read_is_none(tmp_path: Path, content: bytes):
    waiting = package(tmp_path)
    (waiting.folder / "licence-accepted.json").write_bytes(content)
    assert read_acceptance(waiting) is None
    with pytest.raises(ModelError, match="was not accepted"):
        require_licence(waiting)


def test_an_acceptance_nested_without_end_is_none(tmp_path: Path):
    (package(tmp_path).folder / "licence-accepted.json").write_text("[" * 200_000)
    assert read_acceptance(package(tmp_path)) is None
