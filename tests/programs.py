"""Programs whose answer is known: one convolution with weights set by hand, as TorchScript and as ONNX."""

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from dicomnode.models.stages import Network
from tests.toy_models import Document, to_toml, toy_manifest, toy_stage

Axis = str | int
FREE: tuple[Axis, ...] = ("n", 1, "a0", "a1", "a2")


class Bright(torch.nn.Module):
    """Calls a voxel bright where the voxel itself is above 0, as `toy_models.bright_where` does."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, classes, 3, padding=1, bias=False)
        self.conv.weight.data.zero_()
        self.conv.weight.data[:, 0, 1, 1, 1] = torch.linspace(-1, 1, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.conv(x)


class Fine(torch.nn.Module):
    """Label 1 where the voxel is above 0, label 2 from 300.5 HU on: BF16 knows no number between 0.300 and 0.301."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 1, 1, bias=False)
        self.conv.weight.data.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        y = self.conv(x)
        return torch.cat([-y, y, y + 100 * (y - torch.full_like(y, 0.3005))], 1)


def torchscript(module: torch.nn.Module | None = None) -> bytes:
    """A network as a TorchScript program."""
    written = io.BytesIO()
    torch.jit.save(torch.jit.script((module or Bright()).eval()), written)
    return written.getvalue()


def with_line(program: bytes, line: str) -> bytes:
    """The program with one more line at the start of its `forward`."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as source, zipfile.ZipFile(written, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("__torch__.py") or b"class Bright" in content:
                content = content.replace(b"    return ", f"    {line}\n    return ".encode(), 1)
            target.writestr(name, content)
    return written.getvalue()


def onnx_program(
    module: torch.nn.Module | None = None, shape: Sequence[Axis] = FREE, change: Callable[[Any], None] | None = None
) -> bytes:
    """The convolution as an ONNX program whose input has the shape; `change` alters the graph before it is written."""
    weight = (module or Bright()).state_dict()["conv.weight"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["logits"], pads=[1] * 6)],
        "bright",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], len(weight), *shape[2:]])],
        [numpy_helper.from_array(weight.numpy(), "w")],
    )
    if change:
        change(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert isinstance(model, onnx.ModelProto)
    return model.SerializeToString()


def program_network(runner: str, file: str, **changes: Any) -> Network:
    """What a manifest says of one."""
    return Network.model_validate(program_table(runner, file, **changes))


def program_table(runner: str, file: str, **changes: Any) -> Document:
    """A [networks] table of a program."""
    table = {"runner": runner, "name": "forward", "file": file, "in_channels": 1, "out_channels": 2}
    return {**table, **changes}


def program_manifest(runner: str, file: str, name: str = "bright", **changes: Any) -> Document:
    """A manifest as a person writes it for a program: without digests."""
    document = {**toy_manifest(name), "networks": {"toy": program_table(runner, file, **changes)}}
    del document["digests"]
    before = [{"step": "orient", "axes": "SPL"}, {"step": "scale", "source": [-1000.0, 1000.0], "to": [-1.0, 1.0]}]
    stage = {**toy_stage(), "before": before, "windows": {"patch": [16, 16, 16]}}
    return {**document, "stages": [stage]}


def write_program(folder: Path, file: str, content: bytes, document: Document) -> Path:
    """The program and its manifest in a folder; the program's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.toml").write_text(to_toml(document))
    (folder / file).write_bytes(content)
    return folder / file
