"""A package that was made elsewhere is tried when it is imported, not when the first patient waits."""

import hashlib
from pathlib import Path

import pytest
import torch

from dicomnode.errors import ModelError
from dicomnode.importers import Request, import_from
from tests.programs import Bright, program_manifest, torchscript
from tests.toy_models import bright_where, to_toml, toy_manifest, write_package, write_raw_package


class Divided(Bright):
    """Answers a window of zeros by what is no number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) / x.sum()


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        import_from(Request(folder, folder.parent / "mapping.toml"))
    return str(refused.value)


def test_a_package_whose_networks_can_be_built_is_taken_as_it_is(tmp_path: Path) -> None:
    package = write_package(tmp_path, toy_manifest())
    kind, found = import_from(Request(package.folder, tmp_path / "mapping.toml"))
    assert (kind, found.manifest, list(found.files)) == ("package", package.manifest, ["weights.safetensors"])


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = bright_where()
    state["model.0.conv.weight"][0, 0, 0, 0, 0] = torch.nan
    package = write_package(tmp_path, toy_manifest(), state)
    assert "expected finite weights, found NaN or infinity in 'model.0.conv.weight'" in refusal(package.folder)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path, toy_manifest(), {"other": torch.zeros(1)})
    assert "expected the tensors of network 'toy'" in refusal(package.folder)


def test_a_golden_case_that_is_none_is_refused(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"something else").hexdigest()
    package = write_package(tmp_path, {**toy_manifest(), "golden": {"golden-a.safetensors": digest}})
    (package.folder / "golden-a.safetensors").write_bytes(b"something else")
    assert "golden-a.safetensors: expected a golden case, found something else" in refusal(package.folder)


def test_a_program_that_answers_no_numbers_is_refused(tmp_path: Path) -> None:
    content = torchscript(Divided())
    manifest = {**program_manifest("torchscript", "model.ts"), "digests": {"model.ts": _digest(content)}}
    package = write_raw_package(tmp_path, manifest, content)
    assert "expected finite logits for a window of zeros, found NaN or infinity" in refusal(package.folder)


def test_a_manifest_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path, toy_manifest())
    package.manifest_path.write_text("a = " + "[" * 5000 + "]" * 5000)
    assert "manifest.toml: expected TOML in UTF-8, found" in refusal(package.folder)


def test_a_package_does_not_bring_the_acceptance_of_its_own_licence(tmp_path: Path) -> None:
    acceptance = b'{"licence": "Research only"}'
    manifest = {**toy_manifest(), "golden": {"licence-accepted.json": _digest(acceptance)}}
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "licence-accepted.json").write_bytes(acceptance)
    (tmp_path / "toy" / "manifest.toml").write_text(to_toml(manifest))
    assert "another name than 'licence-accepted.json', a file that the node writes itself" in refusal(tmp_path / "toy")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
