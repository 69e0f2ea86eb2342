"""Model packages: `manifest.toml` + the files with weights that it names, checked before a voxel is given to them."""

from dicomnode.models.manifest import Manifest, parse_manifest
from dicomnode.models.store import ModelPackage, ModelStore

__all__ = ["Manifest", "ModelPackage", "ModelStore", "parse_manifest"]
