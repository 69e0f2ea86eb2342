"""A stand-in for timm, which nnunetv2 imports in passing when it looks for a class by its name.

timm needs torchvision, and torchvision brings a build of torch of its own. No network of the oracles is made of it.
"""

import sys
from types import ModuleType


class _Absent(ModuleType):
    """A module that has every class one asks for, each of them empty."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for name in ("timm", "timm.layers", "timm.models", "timm.models.eva"):
    sys.modules[name] = _Absent(name)
