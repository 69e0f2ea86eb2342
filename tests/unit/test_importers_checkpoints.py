"""Checkpoints are data: what could run code, is damaged or is something else is refused in plain words."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dicomnode.errors import ModelError
from dicomnode.importers.checkpoints import read_checkpoint, tensors_of


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_tensors_and_the_numbers_that_training_leaves_are_read(tmp_path: Path):
    content = {
        "weights": {"a": torch.arange(6.0).reshape(2, 3)},
        "_best_ema": np.float64(0.75),
        "losses": [np.float32(1.5), np.int64(3)],
        "settings": {"fold": 0, "axes": (0, 1), "nothing": None, "name": "x"},
    }
    found = read_checkpoint(saved(tmp_path / "c.pth", content))
    assert torch.equal(tensors_of(found["weights"], "weights")["a"], torch.arange(6.0).reshape(2, 3))
    assert found["_best_ema"] == 0.75
    assert found["losses"] == [1.5, 3]
    assert found["settings"] == content["settings"]


def test_scalars_of_numpy_before_version_two_are_read(tmp_path: Path):
    path = tmp_path / "c.pth"
    torch.save({"_best_ema": np.float64(0.75)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"cnumpy._core.multiarray\n" in content
    path.write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert read_checkpoint(path) == {"_best_ema": 0.75}


class Marks:
    """What a hostile checkpoint holds: unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_pickle_is_not_run_and_is_named(as_zip: bool, tmp_path: Path):
    path, mark = tmp_path / "c.pth", tmp_path / "was-run"
    torch.save({"weights": Marks(mark)}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(ModelError, match=r"c.pth: .*found the name of a program part, '(posix|nt).mkdir'"):
        read_checkpoint(path)
    assert not mark.exists()


def test_a_plain_pickle_with_code_is_not_run(tmp_path: Path):
    path, mark = tmp_path / "c.pth", tmp_path / "was-run"
    path.write_bytes(pickle.dumps(Marks(mark)))
    with pytest.raises(ModelError, match=r"c.pth: expected"):
        read_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_checkpoint_is_refused(part: float, tmp_path: Path):
    path = saved(tmp_path / "c.pth", {"weights": {"a": torch.zeros(1000)}})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ModelError, match=r"c.pth: expected a (complete )?checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint", b"\x80\x02}q\x00.", b"\x00" * 4096])
def test_bytes_that_are_no_checkpoint_are_refused(content: bytes, tmp_path: Path):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"c.pth: expected"):
        read_checkpoint(tmp_path / "c.pth")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="found no such file"):
        read_checkpoint(tmp_path / "c.pth")
    with pytest.raises(ModelError, match="expected a complete checkpoint"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_that_is_no_table_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="expected a table of weights and settings, found list"):
        read_checkpoint(saved(tmp_path / "c.pth", [torch.zeros(1)]))


def test_half_precision_weights_become_single():
    state = tensors_of({"a": torch.ones(2, dtype=torch.float16), "count": torch.tensor(3)}, "c.pth")
    assert state["a"].dtype == torch.float32
    assert state["count"].dtype == torch.int64


@pytest.mark.parametrize("table", [None, {}, [], {"a": 1}, {"a": torch.tensor(float("inf"))}])
def test_what_is_no_state_dict_is_refused(table: object):
    with pytest.raises(ModelError, match=r"c.pth: expected"):
        tensors_of(table, "c.pth")


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.eye(2).to_sparse(), "dense tensor"),
        (torch.ones(2, dtype=torch.complex64), "dense tensor of real numbers"),
        (torch.ones(1).expand(1 << 40), "every value stored, found 1099511627776 values in 4 bytes"),
    ],
    ids=["sparse", "complex", "expanded"],
)
def test_few_bytes_that_stand_for_a_tensor_of_any_size_are_refused(tensor: torch.Tensor, sentence: str):
    with pytest.raises(ModelError, match=rf"c.pth: 'a': expected .*{sentence}"):
        tensors_of({"a": tensor}, "c.pth")
