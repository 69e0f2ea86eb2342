"""Runner "torchscript": a program that `torch.jit.save` wrote, with its weights in it.

What such an archive can do: it is source text in TorchScript's own language, run by an interpreter in C++. It cannot
call Python, import anything or start a process. It can call every operator of torch, and two of those touch files:
`torch.save` writes one wherever this process may, `torch.from_file` reads or makes one (tried with torch 2.13). Some of
it runs while it is loaded (`__setstate__`). So its text is searched for these names before it is loaded, through the
reader that torch itself loads it with. That closes the doors we know of. It does not make a stranger's program one to
trust: PyTorch's security policy says to treat TorchScript as code, and it can still loop or ask for all memory.
"""

import io
import re

import torch

from dicomnode.errors import ModelError
from dicomnode.inference.runners.programs import ProgramArguments, logits_of, program_arguments, require_memory
from dicomnode.models import ModelPackage
from dicomnode.models.stages import Network

# The text is searched, not parsed, so that no other reading of it can hide a name; as a value of its own, which
# getattr(torch, "s" "ave") needs, neither torch nor ops ever stands in a serialised program. `torch.classes` are
# objects in C++, those of distributed computing among them.
_CLASSES = r"\btorch\s*\.\s*classes\b"
_IN_CODE = re.compile(
    r"\b(?:save|from_file|rpc_\w+)\b"
    r"|(?<![.\w])torch\b(?!\.\w)"
    r"|(?<![.\w])ops\b(?!\s*:|\.(?:aten|prim|quantized)\.\w)"  # `ops :` declares an attribute
    rf"|{_CLASSES}"
)
_IN_PICKLES = re.compile(_CLASSES)
_PARTS = ("data.pkl", "constants.pkl")  # of the format since torch 1.4


class TorchScriptProgram(torch.nn.Module):
    """A program as a network: `[n, channel, ...]` -> logits `[n, class, ...]`."""

    def __init__(self, content: bytes, network: Network, arguments: ProgramArguments, where: str) -> None:
        """Load a program that was searched, on the CPU."""
        super().__init__()
        self._content, self._where = content, where
        self._output, self._classes = arguments.output, network.out_channels
        self.script = _loaded(content, torch.device("cpu"), where)

    def to(self, device: torch.device) -> "TorchScriptProgram":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Load it anew on another device than the CPU: constants in the text move only so."""
        if device.type != "cpu":
            self.script = _loaded(self._content, device, self._where)
        self._content = b""
        return self

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """The logits.

        Raises:
            ModelError: the program fails, or answers something else than the manifest says.
        """
        try:
            answer = self.script(window.clone())  # a program may write into its input, a window is a view
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # torch.jit.Error is one
            raise _failure(error, window) from error
        return logits_of(answer, self._output, window, self._classes)


def build_torchscript_program(package: ModelPackage, name: str) -> torch.nn.Module:
    """A network of a package that is a TorchScript program, on the CPU, in evaluation mode.

    Raises:
        ModelError: the file is altered, damaged, no TorchScript, or names operators that are refused; or the manifest
            lacks what it has to say of a program.
    """
    network = package.manifest.networks[name]
    where = f"{package.manifest_path}: networks.{name}"
    require_memory(package, name, where)
    return read_torchscript(package.read_file(network.file), network, where)


def read_torchscript(content: bytes, network: Network, where: str) -> torch.nn.Module:
    """The same from the file's bytes; `where` names the network in errors.

    Raises:
        ModelError: as above.
    """
    arguments = program_arguments(network, where)
    _search(content, f"{where}.file {network.file!r}")
    return TorchScriptProgram(content, network, arguments, f"{where}.file {network.file!r}")


def _search(content: bytes, where: str) -> None:
    """Refuse a program that names what is not the business of a network."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))  # pyright: ignore[reportPrivateUsage]
        names = reader.get_all_records()
        texts = {name: _text(reader.get_record(name)) for name in names if name in _PARTS or name.endswith(".py")}
    except (RuntimeError, ValueError) as error:  # torch's classes for no archive, and for one that is cut off
        raise ModelError(f"{where}: expected a TorchScript program, found a damaged one or something else") from error
    if missing := [part for part in _PARTS if part not in texts]:
        found = "a checkpoint or another format" if len(names) else "nothing"
        raise ModelError(f"{where}: expected a TorchScript program with {missing[0]}, found {found}")
    for name, text in texts.items():
        if found := (_IN_PICKLES if name in _PARTS else _IN_CODE).search(text):
            problem = f"{name} names {found.group()!r}, which reaches beyond tensors"
            raise ModelError(f"{where}: {problem}; the node does not load it: export the network without it")


def _text(record: bytes) -> str:
    return record.decode("latin-1")  # every byte is a letter: nothing is skipped


def _loaded(content: bytes, device: torch.device, where: str) -> torch.jit.ScriptModule:
    try:
        script = torch.jit.load(io.BytesIO(content), map_location=device)
    except RuntimeError as error:
        problem = f"expected a TorchScript program of this torch ({torch.__version__}), found: {_last_line(error)}"
        raise ModelError(f"{where}: {problem}") from error
    for name, tensor in (*script.named_parameters(), *script.named_buffers()):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{where}: expected finite weights, found NaN or infinity in {name!r}")
    return script.eval()


def _failure(error: RuntimeError, window: torch.Tensor) -> Exception:
    """What a failing program says, without its whole source; memory that is short stays torch's own error."""
    if "allocate memory" in str(error):
        return error
    if "out of memory" in str(error):
        return torch.OutOfMemoryError(str(error))
    return ModelError(f"the program cannot take a window of shape {list(window.shape)}: {_last_line(error)}")


def _last_line(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
