"""Networks in FP32 on a CPU by OpenVINO (the extra `dicomnode[openvino]`), where it is installed.

It takes about a third of torch's time, and its sums are rounded differently: so its first answer of each shape of
window is compared with torch's, and where it is another one, or the network cannot be converted, torch goes on.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from dicomnode.inference.admission import Course
from dicomnode.inference.device import Precision
from dicomnode.log import Log
from dicomnode.models.stages import Network, Windows

log = Log("inference")

TORCH, OPENVINO = "torch", "openvino"
_MOST_SHAPES = 4  # of windows, that are kept compiled
_MOST_DIFFERENCE = 1e-3  # of logits, relative to the largest: FP32 differs by 1e-5 to 1e-4, BF16 by 1e-2
_CONVERTED = ("monai", "nnunet")  # of the runners: networks that are built here
_LEAST_WINDOWS = 16  # of a volume: converting takes as long as some ten of them

_Compiled = Callable[[torch.Tensor], torch.Tensor]


def library() -> ModuleType | None:
    """OpenVINO; None where it is not installed.

    Importing it reports to its makers, unless a package beside it is missing: to this process it is.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        return None


def backend_for(network: Network, windows: Windows, course: Course, precision: Precision) -> str:
    """By what a network is computed that nobody asked to be computed by torch."""
    here = course.device.type == "cpu" and precision is Precision.FP32 and network.runner in _CONVERTED
    fixed = windows.patch != "whole" and course.plan.count << len(windows.mirror_axes) >= _LEAST_WINDOWS
    return OPENVINO if here and fixed and library() is not None else TORCH


class OpenVinoNetwork(torch.nn.Module):
    """A network by OpenVINO, or by torch where that does not do."""

    def __init__(self, network: torch.nn.Module) -> None:
        """Take a network on the CPU, in evaluation mode."""
        super().__init__()
        self.network = network
        self._compiled: dict[tuple[int, ...], _Compiled] = {}
        self.backend = OPENVINO  # of the last answer

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """The logits of a window in FP32."""
        shape = tuple(window.shape)
        if shape in self._compiled:
            return self._compiled[shape](window)
        exact = self.network(window)
        return exact if self.backend == TORCH else self._converted(window, exact)

    def _converted(self, window: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        """OpenVINO's answer if it is torch's, from now on; never torch's first, so that a volume looks alike twice."""
        try:
            compiled = _compile(self.network, window)
            answer = compiled(window)
            difference = float((answer - exact).abs().max() / exact.abs().max().clamp(min=1e-6))
        except _failures() as error:
            self._give_up(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}")
            return exact
        if not difference <= _MOST_DIFFERENCE:
            self._give_up(f"logits differ from torch's by {difference:.3g} of the largest")
            return exact
        while len(self._compiled) >= _MOST_SHAPES:
            del self._compiled[next(iter(self._compiled))]
        self._compiled[tuple(window.shape)] = compiled
        return answer

    def _give_up(self, reason: str) -> None:
        log.warning("openvino is not used", network=type(self.network).__name__, reason=reason)
        self._compiled.clear()
        self.backend = TORCH


def _failures() -> tuple[type[Exception], ...]:
    """What is raised where a network cannot be converted: by torch's tracer, OpenVINO's front end, or its kernels."""
    front_end: Any = importlib.import_module("openvino.frontend")
    names = ("GeneralFailure", "InitializationFailure", "NotImplementedFailure", "OpConversionFailure")
    own = tuple(getattr(front_end, name) for name in (*names, "OpValidationFailure"))
    return (*own, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


def _compile(network: torch.nn.Module, window: torch.Tensor) -> _Compiled:
    """The network for windows of this one shape: what depends on the shape is traced right only so."""
    openvino: Any = library()
    with torch.inference_mode(mode=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about what depends on the shape, which is given
        example = window.detach().clone()
        model = openvino.convert_model(network, example_input=example, input=[list(window.shape)])
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the listener shares these cores
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)

    def run(asked: torch.Tensor) -> torch.Tensor:
        answer = compiled([np.ascontiguousarray(asked.numpy())])[0]
        return torch.from_numpy(np.array(answer))  # a copy: the next run writes into the same memory

    return run
