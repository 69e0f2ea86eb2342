"""Runner "onnx": a program in ONNX, with its weights in it, run by onnxruntime (the extra `dicomnode[onnx]`).

An ONNX file is a graph of operators from a fixed list. It may name files beside it for its weights, which no digest
would cover: onnxruntime is told to look for them in a folder that is not there, so a program is one file. Operators of
other libraries are not registered, so a graph that has some is refused. It computes in the precision that it was
exported in.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dicomnode.errors import ModelError
from dicomnode.inference.runners.programs import ProgramArguments, logits_of, program_arguments, require_memory
from dicomnode.models import ModelPackage
from dicomnode.models.stages import Network

if TYPE_CHECKING:
    import onnxruntime

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_NOWHERE = "/dev/null/there-is-no-such-folder"  # else it looks in the folder that the process runs in
_ERRORS_ONLY = 3  # onnxruntime's log level: its warnings about the graph are of no use to a hospital


class OnnxProgram(torch.nn.Module):
    """A program as a network: `[n, channel, ...]` -> logits `[n, class, ...]`."""

    def __init__(self, content: bytes, network: Network, arguments: ProgramArguments, where: str) -> None:
        """Read the program, to be run on the CPU."""
        super().__init__()
        self._where, self._output, self._classes = where, arguments.output, network.out_channels
        self._device = torch.device("cpu")
        self._session = _session(content, self._device, where)
        self._input = _input(self._session, network, where)
        # A buffer, so that its bytes count among the weights that are loaded.
        self.content: torch.Tensor
        self.register_buffer("content", torch.frombuffer(bytearray(content), dtype=torch.uint8), persistent=False)

    @property
    def backend(self) -> str:
        """What computes it: a provider that could not start is not among those of the session."""
        return f"onnxruntime {self._session.get_providers()[0]}"

    def to(self, device: torch.device) -> "OnnxProgram":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run it on another device; windows of another one are copied."""
        if device.type != self._device.type:
            self._session = _session(self.content.cpu().numpy().tobytes(), device, self._where)
            self._device = device
        return self

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """The logits.

        Raises:
            ModelError: the program fails, or answers something else than the manifest says.
        """
        fixed = [size if isinstance(size, int) else None for size in self._input.shape]
        if fixed[0] == 1 and len(window) > 1:
            return torch.cat([self(one[None]) for one in window])
        _check_shape(fixed, window)
        logits = logits_of(self._answer(window), self._output, window, self._classes)
        return logits.float().to(window.device)

    def _answer(self, window: torch.Tensor) -> list[torch.Tensor] | dict[str, torch.Tensor]:
        """The outputs in order, or by name where the manifest names the one to take."""
        asked = np.ascontiguousarray(window.float().cpu().numpy(), _FLOATS[self._input.type])
        try:
            answers: Sequence[Any] = self._session.run(None, {self._input.name: asked})
        except _runtime_errors() as error:
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            problem = " ".join(str(error).split())[:300]
            raise ModelError(f"the program cannot take a window of shape {list(window.shape)}: {problem}") from error
        names = [output.name for output in self._session.get_outputs()]
        tensors = [_tensor(answer, name) for name, answer in zip(names, answers, strict=True)]
        return dict(zip(names, tensors, strict=True)) if isinstance(self._output, str) else tensors


def build_onnx_program(package: ModelPackage, name: str) -> torch.nn.Module:
    """A network of a package that is an ONNX program, on the CPU.

    Raises:
        ModelError: onnxruntime is not installed; or the file is altered, damaged, no ONNX, takes other inputs than
            the manifest says, or has operators that onnxruntime does not know.
    """
    network = package.manifest.networks[name]
    where = f"{package.manifest_path}: networks.{name}"
    require_memory(package, name, where)
    return read_onnx(package.read_file(network.file), network, where)


def read_onnx(content: bytes, network: Network, where: str) -> torch.nn.Module:
    """The same from the file's bytes; `where` names the network in errors.

    Raises:
        ModelError: as above.
    """
    return OnnxProgram(content, network, program_arguments(network, where), f"{where}.file {network.file!r}")


def _library(where: str) -> Any:
    """onnxruntime, imported where it is used: the node runs without it.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"{where}: an ONNX program needs onnxruntime: pip install 'dicomnode[onnx]'") from error
    return onnxruntime


def _session(content: bytes, device: torch.device, where: str) -> "onnxruntime.InferenceSession":
    library = _library(where)
    options = library.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.use_deterministic_compute = True
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the listener shares these cores
    wanted = ("CUDAExecutionProvider",) if device.type == "cuda" else ()
    there = [name for name in (*wanted, "CPUExecutionProvider") if name in library.get_available_providers()]
    try:
        return library.InferenceSession(content, options, providers=there)
    except _runtime_errors() as error:
        problem = " ".join(str(error).split())[:300]
        raise ModelError(f"{where}: expected an ONNX program in one file, found: {problem}") from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Its exceptions: each code of onnxruntime is a class of its own; wrong shapes and names are ValueErrors."""
    state = vars(_library("onnx").capi.onnxruntime_pybind11_state)
    classes = [value for value in state.values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*classes, RuntimeError, ValueError)


def _input(session: "onnxruntime.InferenceSession", network: Network, where: str) -> Any:
    """The one input of a program, `[n, channel, ...]`.

    Raises:
        ModelError: there are several, or it takes something else.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = [one.name for one in inputs]
        raise ModelError(f"{where}: expected a program of one input, found {len(inputs)}: {names}")
    (one,) = inputs
    if one.type not in _FLOATS:
        raise ModelError(f"{where}: expected input {one.name!r} to be {' or '.join(_FLOATS)}, found {one.type}")
    axes = 2 + network.dimensions
    if len(one.shape) != axes or one.shape[1] not in (network.in_channels, *_free(one.shape[1])):
        expected = f"[n, {network.in_channels}, ...] of {axes} axes"
        raise ModelError(f"{where}: expected input {one.name!r} of shape {expected}, found {one.shape}")
    return one


def _check_shape(fixed: list[int | None], window: torch.Tensor) -> None:
    if any(size not in (None, found) for size, found in zip(fixed, window.shape, strict=True)):
        taken = ["any" if size is None else size for size in fixed]
        advice = "" if None in fixed[2:] else f"; say windows.patch = {taken[2:]} or export it with free axes"
        raise ModelError(f"the program takes windows of shape {taken}, found {list(window.shape)}{advice}")


def _free(size: object) -> tuple[object, ...]:
    """An axis whose size the program leaves open has a name or nothing in place of a number."""
    return () if isinstance(size, int) else (size,)


def _tensor(answer: object, name: str) -> torch.Tensor:
    if not isinstance(answer, np.ndarray):
        raise ModelError(f"expected output {name!r} to be a tensor, found {type(answer).__name__}")
    return torch.from_numpy(answer)
