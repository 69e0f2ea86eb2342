"""Programs in TorchScript and ONNX as networks: what they may be, what they answer, and what is refused."""

import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from dicomnode.errors import ModelError
from dicomnode.inference import Engine, Precision
from dicomnode.inference.runners import RUNNERS
from dicomnode.inference.runners.onnx import read_onnx
from dicomnode.inference.runners.torchscript import read_torchscript
from dicomnode.models import ModelPackage
from tests.programs import (
    FREE,
    Bright,
    onnx_program,
    program_manifest,
    program_network,
    torchscript,
    with_line,
)
from tests.toy_models import toy_engine, upright_geometry, volume_on, write_raw_package

READERS = {"torchscript": (read_torchscript, torchscript, "model.ts"), "onnx": (read_onnx, onnx_program, "model.onnx")}
WINDOW = torch.linspace(-1, 1, 2 * 6 * 5 * 4).reshape(2, 1, 6, 5, 4)


def read(runner: str, content: bytes, **changes: Any) -> torch.nn.Module:
    reader, _, file = READERS[runner]
    return reader(content, program_network(runner, file, **changes), "manifest.toml: networks.main")


def refused(runner: str, content: bytes, **changes: Any) -> str:
    with pytest.raises(ModelError) as refusal, torch.inference_mode():
        read(runner, content, **changes)(WINDOW)
    return str(refusal.value)


def package_of(folder: Path, runner: str, content: bytes, **changes: Any) -> ModelPackage:
    file = READERS[runner][2]
    document = {**program_manifest(runner, file), **changes}
    return write_raw_package(folder, {**document, "digests": {file: hashlib.sha256(content).hexdigest()}}, content)


class Returns(torch.nn.Module):
    """Answers in the way that is asked for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how = Bright().conv, how


class Pair(Returns):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(x), x


class Listed(Returns):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, self.conv(x)]


class Named(Returns):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"seg": self.conv(x), "features": x}


class Decided(Returns):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).argmax(1, keepdim=True)


class Number(Returns):
    def forward(self, x: torch.Tensor) -> int:
        return x.dim()


@pytest.mark.parametrize("runner", READERS)
def test_a_program_says_what_the_network_says_that_it_was_made_of(runner: str):
    weights = Bright(3)
    weights.conv.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    program = read(runner, READERS[runner][1](weights), out_channels=3)
    with torch.inference_mode():
        torch.testing.assert_close(program(WINDOW), weights(WINDOW))


@pytest.mark.parametrize("runner", READERS)
def test_a_volume_is_segmented_by_a_program_as_by_a_network(runner: str, tmp_path: Path):
    package = package_of(tmp_path, runner, READERS[runner][1]())
    voxels = np.random.default_rng(2).integers(-900, 900, (20, 24, 22)).astype(np.int16)
    volume = volume_on(upright_geometry((20, 24, 22), (3.0, 2.0, 2.0)), voxels)
    found = toy_engine().segment(package, volume)
    np.testing.assert_array_equal(found.labels, voxels > 0)
    assert found.stages[0].backend == {"torchscript": "torch", "onnx": "onnxruntime CPUExecutionProvider"}[runner]


@pytest.mark.parametrize("runner", READERS)
def test_the_weights_of_a_program_count_among_those_that_are_loaded(runner: str, tmp_path: Path):
    package = package_of(tmp_path, runner, READERS[runner][1]())
    program = RUNNERS[runner](package, "toy")
    tensors = [*program.parameters(), *program.buffers()]
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) >= 2 * 27 * 4


@pytest.mark.parametrize("runner", READERS)
def test_a_program_with_another_number_of_classes_is_refused_with_both_numbers(runner: str):
    content = READERS[runner][1](Bright(3))
    assert "expected logits of shape [2, 2, 6, 5, 4], found [2, 3, 6, 5, 4]" in refused(runner, content)


@pytest.mark.parametrize("runner", READERS)
def test_a_program_that_takes_other_channels_is_refused(runner: str):
    reader, make, file = READERS[runner]
    network = program_network(runner, file, in_channels=2)
    with pytest.raises(ModelError, match=r"to have 1 channels|expected input 'x' of shape \[n, 2"):
        reader(make(), network, "manifest.toml")(WINDOW.expand(2, 2, 6, 5, 4))


@pytest.mark.parametrize("runner", READERS)
@pytest.mark.parametrize("damage", [lambda b: b[:0], lambda b: b[:2] * 50, lambda b: b[: len(b) // 2]])
def test_a_damaged_program_is_refused_when_it_is_read(runner: str, damage: Callable[[bytes], bytes]):
    said = refused(runner, damage(READERS[runner][1]()))
    assert "networks.main.file" in said
    assert "expected a" in said


@pytest.mark.parametrize("runner", READERS)
def test_a_program_has_one_entry_and_one_argument(runner: str):
    content = READERS[runner][1]()
    assert "is entered at 'forward', found 'infer'" in refused(runner, content, name="infer")
    assert "arguments.outputs: expected output" in refused(runner, content, arguments={"outputs": 1})


@pytest.mark.parametrize("runner", READERS)
def test_windows_of_no_given_size_need_to_know_what_a_forward_takes(runner: str, tmp_path: Path):
    stages = [{**program_manifest(runner, "x")["stages"][0], "windows": {"patch": "whole"}}]
    package = package_of(tmp_path, runner, READERS[runner][1](), stages=stages)
    with pytest.raises(ModelError, match=r"networks.toy: expected memory.bytes_per_voxel, or windows.patch"):
        RUNNERS[runner](package, "toy")
    said = package_of(tmp_path, runner, READERS[runner][1](), stages=stages, memory={"bytes_per_voxel": 64.0})
    volume = volume_on(upright_geometry((6, 5, 4), (3.0, 2.0, 2.0)))
    assert not toy_engine().segment(said, volume).labels.any()


@pytest.mark.parametrize("runner", READERS)
def test_not_a_number_in_the_logits_is_blocked_by_the_engine(runner: str, tmp_path: Path):
    if runner == "onnx":
        weights = Bright()
        weights.conv.weight.data[0, 0, 1, 1, 1] = torch.nan
        content = onnx_program(weights)
    else:
        content = with_line(torchscript(), "x = torch.mul(x, float('nan'))")
    package = package_of(tmp_path, runner, content)
    with pytest.raises(ModelError, match="expected finite logits from the network, found NaN or infinity"):
        toy_engine().segment(package, volume_on(upright_geometry((16, 16, 16), (3.0, 2.0, 2.0))))


def test_torchscript_with_weights_that_are_not_finite_is_refused():
    weights = Bright()
    weights.conv.weight.data[0, 0, 0, 0, 0] = torch.inf
    assert "expected finite weights, found NaN or infinity in 'conv.weight'" in refused(
        "torchscript", torchscript(weights)
    )


@pytest.mark.parametrize(("module", "output"), [(Pair, None), (Pair, 0), (Listed, 1), (Named, "seg")])
def test_one_of_several_outputs_is_taken_by_its_place_or_name(module: type[Returns], output: int | str | None):
    arguments = {} if output is None else {"output": output}
    program = read("torchscript", torchscript(module("")), arguments=arguments)
    with torch.inference_mode():
        torch.testing.assert_close(program(WINDOW), Bright()(WINDOW))


@pytest.mark.parametrize(
    ("module", "output", "said"),
    [
        (Named, None, r"arguments.output to be one of \['features', 'seg'\]"),
        (Named, "logits", r"found 'logits'"),
        (Pair, 2, r"arguments.output below 2.*found 2"),
        (Pair, "seg", r"found 'seg'"),
        (Bright, 1, r"expected several outputs, of which 1 is one; found one Tensor"),
        (Decided, None, r"expected logits in floating point, found int64; export the program without its decision"),
        (Number, None, r"expected a tensor of logits from the program, found int"),
    ],
)
def test_an_answer_that_is_not_clear_is_refused(module: Any, output: int | str | None, said: str):
    made = module() if module is Bright else module("")
    program = read("torchscript", torchscript(made), arguments={} if output is None else {"output": output})
    with pytest.raises(ModelError, match=said), torch.inference_mode():
        program(WINDOW)


@pytest.mark.parametrize(
    "line",
    [
        'torch.save(x, "{path}")',
        'getattr(torch, "s" "ave")(x, "{path}")',
        'getattr(torch, "s\\141ve")(x, "{path}")',
        'ops.aten.save(x, "{path}")',
        'getattr(ops.aten, "s\\141ve")(x, "{path}")',
        'getattr(getattr(ops, "aten"), "s\\141ve")(x, "{path}")',
        'x = torch.from_file("{path}", True, 4)',
        "t = torch",
    ],
)
def test_torchscript_that_reaches_beyond_tensors_is_not_loaded(line: str, tmp_path: Path):
    path = tmp_path / "written"
    said = refused("torchscript", with_line(torchscript(), line.format(path=path)))
    assert "which reaches beyond tensors; the node does not load it" in said
    assert not path.exists()


def test_what_is_refused_in_torchscript_would_have_written_a_file(tmp_path: Path):
    path = tmp_path / "written"
    program = with_line(torchscript(), f'getattr(torch, "s\\141ve")(x, "{path}")')
    torch.jit.load(io.BytesIO(program))(WINDOW)  # pyright: ignore[reportCallIssue]
    assert path.exists()


class Deep(torch.nn.Module):
    """Names that are no identifiers, and attributes with names of namespaces."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = torch.nn.Sequential(torch.nn.Sequential(Bright()))
        self.classes = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 1, "a torch.Tensor of one channel"
        return self.ops(x) * (self.classes / self.classes)


def test_torchscript_of_nested_sequences_and_unlucky_names_is_loaded():
    with torch.inference_mode():
        torch.testing.assert_close(read("torchscript", torchscript(Deep()))(WINDOW), Bright()(WINDOW))


def test_a_checkpoint_is_not_taken_for_torchscript():
    written = io.BytesIO()
    torch.save(Bright().state_dict(), written)
    assert "expected a TorchScript program with constants.pkl" in refused("torchscript", written.getvalue())


def test_onnx_without_onnxruntime_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'dicomnode[onnx]'" in refused("onnx", onnx_program())


def test_onnx_of_a_fixed_size_takes_windows_of_that_size_one_by_one():
    program = read("onnx", onnx_program(shape=(1, 1, 6, 5, 4)))
    torch.testing.assert_close(program(WINDOW), Bright()(WINDOW).detach())
    with pytest.raises(
        ModelError, match=r"takes windows of shape \[1, 1, 6, 5, 4\], found .*; say windows.patch = \[6, "
    ):
        program(torch.zeros(1, 1, 8, 8, 8))


def two_inputs(graph: Any) -> None:
    graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, list(FREE)))


def whole_numbers(graph: Any) -> None:
    graph.node.insert(0, helper.make_node("Cast", ["i"], ["x"], to=TensorProto.FLOAT))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("i", TensorProto.INT64, list(FREE)))


def flat(graph: Any) -> None:
    graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "a", "b"]))


def unknown_operator(graph: Any) -> None:
    graph.node[0].CopyFrom(helper.make_node("Sharpen", ["x", "w"], ["logits"], domain="somebody.else"))


def weights_in(location: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        set_external_data(graph.initializer[0], location=location, length=len(graph.initializer[0].raw_data))
        graph.initializer[0].ClearField("raw_data")

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (two_inputs, r"expected a program of one input, found 2: \['x', 'y'\]"),
        (whole_numbers, r"expected input 'i' to be tensor\(float\) or tensor\(float16\), found tensor\(int64\)"),
        (flat, r"expected .*ONNX program|expected input 'x' of shape"),
        (unknown_operator, r"expected an ONNX program in one file, found: .*somebody.else"),
    ],
)
def test_onnx_that_is_not_one_file_with_one_picture_is_refused(change: Callable[[Any], None], said: str):
    with pytest.raises(ModelError, match=said):
        read("onnx", onnx_program(change=change))


@pytest.mark.parametrize("where", ["weights.bin", "./weights.bin", "../folder/weights.bin", "{folder}/weights.bin"])
def test_weights_beside_an_onnx_program_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/weights.bin").write_bytes(Bright().state_dict()["conv.weight"].numpy().tobytes())
    monkeypatch.chdir(tmp_path / "folder")
    with pytest.raises(ModelError, match="expected an ONNX program in one file, found: "):
        read("onnx", onnx_program(change=weights_in(where.format(folder=tmp_path / "folder"))))


def more_outputs(graph: Any) -> None:
    graph.node.append(helper.make_node("ArgMax", ["logits"], ["labels"], axis=1))
    graph.output.insert(0, helper.make_tensor_value_info("labels", TensorProto.INT64, ["n", 1, *FREE[2:]]))


def test_onnx_with_several_outputs_names_the_one_with_logits():
    content = onnx_program(change=more_outputs)
    torch.testing.assert_close(read("onnx", content, arguments={"output": "logits"})(WINDOW), Bright()(WINDOW).detach())
    assert "found int64" in refused("onnx", content)
    assert "one of ['labels', 'logits']" in refused("onnx", content, arguments={"output": "mask"})


def test_onnx_computes_with_as_many_threads_as_the_engine(tmp_path: Path):
    before = torch.get_num_threads()
    try:
        Engine(lambda *_: volume_on(upright_geometry((2, 2, 2), (1, 1, 1))), "cpu", threads=1)  # type: ignore[arg-type]
        program: Any = RUNNERS["onnx"](package_of(tmp_path, "onnx", onnx_program()), "toy")
        assert program._session.get_session_options().intra_op_num_threads == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("runner", READERS)
def test_a_program_may_be_asked_for_half_precision(runner: str, tmp_path: Path):
    content = torchscript(Deep()) if runner == "torchscript" else onnx_program()
    package = package_of(tmp_path, runner, content)
    voxels = np.full((16, 16, 16), -500, np.int16)
    voxels[4:9, 3:12, 5:10] = 400
    volume = volume_on(upright_geometry((16, 16, 16), (3.0, 2.0, 2.0)), voxels)
    found = toy_engine(precision=Precision.BF16).segment(package, volume)
    np.testing.assert_array_equal(found.labels, voxels > 0)
    taken = {"torchscript": Precision.BF16, "onnx": Precision.FP32}[runner]  # ONNX knows only that of its export
    assert found.stages[0].precision is taken


class Overwriting(Returns):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return self.conv(x - 1)


def test_a_program_that_writes_into_its_window_does_not_alter_the_volume(tmp_path: Path):
    voxels = np.random.default_rng(3).integers(-900, 900, (20, 24, 22)).astype(np.int16)
    volume = volume_on(upright_geometry((20, 24, 22), (3.0, 2.0, 2.0)), voxels)
    stages = program_manifest("torchscript", "model.ts")["stages"]
    stages[0]["windows"] = {"patch": [16, 16, 16], "overlap": 0.5}
    package = package_of(tmp_path, "torchscript", torchscript(Overwriting("")), stages=stages)
    np.testing.assert_array_equal(toy_engine().segment(package, volume).labels, voxels > 0)
