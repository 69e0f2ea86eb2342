"""Model packages: `manifest.toml` + `weights.safetensors`, checked before a voxel is given to them."""

from dicomnode.models.manifest import Channel, Manifest, parse_manifest
from dicomnode.models.store import ModelPackage, ModelStore

__all__ = ["Channel", "Manifest", "ModelPackage", "ModelStore", "parse_manifest"]
