"""What a bundle says about itself, in configs/metadata.json and LICENSE: names, versions, use; never geometry."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dicomnode.errors import ModelError
from dicomnode.importers.bundle_files import BundleFiles, Json
from dicomnode.importers.bundle_network import BundleNetwork
from dicomnode.importers.bundle_values import SEPARATOR
from dicomnode.importers.licences import licence_of
from dicomnode.models.manifest import Licence

_MODALITIES = {"MRI": "MR", "PET": "PT"}


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of a bundle."""

    file: str
    root: Mapping[str, Json]

    def text(self, key: str) -> str:
        """A text of the top level on one line, "" if there is none."""
        value = self.root.get(key)
        return " ".join(value.split()) if isinstance(value, str) else ""

    def version(self, key: str) -> tuple[int, ...]:
        """ "1.4.0rc1" -> (1, 4, 0); empty if there is none."""
        match = re.match(r"\d+(?:\.\d+)*", self.text(key))
        return tuple(int(part) for part in match[0].split(".")) if match else ()

    def at(self, *parts: str) -> Json:
        """What stands at a nested key, or None."""
        found: Json = dict(self.root)
        for part in parts:
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def error(self, key: str, problem: str) -> ModelError:
        """What is wrong with a key."""
        return ModelError(f"{self.file}: {key}: {problem}")

    @property
    def modality(self) -> str:
        """In DICOM's words.

        Raises:
            ModelError: there is none.
        """
        found = self.at(*_INPUT, "modality")
        if not isinstance(found, str) or not found.strip():
            key = SEPARATOR.join((*_INPUT, "modality"))
            raise self.error(key, f"expected CT, MR or another modality, found {found!r}")
        return _MODALITIES.get(found.strip().upper(), found.strip().upper())

    @property
    def names(self) -> dict[int, str]:
        """What each channel of the answer is called.

        Raises:
            ModelError: there is no list of them.
        """
        found, key = self.at(*_OUTPUT, "channel_def"), SEPARATOR.join((*_OUTPUT, "channel_def"))
        if not isinstance(found, dict) or not all(channel.isdecimal() for channel in found):
            raise self.error(key, "expected names of the channels by number, found none")
        return {int(channel): " ".join(str(name).split()) for channel, name in found.items()}

    def check_channels(self, network: BundleNetwork) -> None:
        """Refuse metadata of another network: then its names mean nothing either.

        Raises:
            ModelError: the numbers of channels contradict each other.
        """
        self._compare((*_INPUT, "num_channels"), network.in_channels, network)
        if network.prompts:
            return  # the metadata of VISTA3D counts the labels of the result as one channel
        self._compare((*_OUTPUT, "num_channels"), network.out_channels, network)
        if (last := max(self.names, default=0)) >= max(network.out_channels, 2):
            key = SEPARATOR.join((*_OUTPUT, "channel_def"))
            raise self.error(key, f"expected channels 0 to {network.out_channels - 1}, found {last}")

    def _compare(self, parts: tuple[str, ...], expected: int, network: BundleNetwork) -> None:
        found = self.at(*parts)
        if isinstance(found, int) and found != expected:
            where = f"{network.component.file}: {network.component.key} has"
            raise self.error(SEPARATOR.join(parts), f"expected {expected}, which {where}; found {found}")


def read_metadata(files: BundleFiles) -> Metadata:
    """The metadata of a bundle.

    Raises:
        ModelError: it is missing or cannot be read.
    """
    name = files.config_name("metadata")
    return Metadata(name.removeprefix("configs/"), files.config(name))


def read_licence(files: BundleFiles, metadata: Metadata) -> Licence:
    """The licence of the weights; one that restricts their use has to be accepted before the model runs."""
    places = [name for name in ("LICENSE", "LICENSE.txt", "docs/LICENSE", "docs/license.txt") if name in files.names]
    text = files.read(places[0], 1 << 20).decode("utf-8", "replace") if places else ""
    stated = metadata.text("license") or metadata.text("licence")
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return licence_of(stated or first[:120] or metadata.text("copyright"), text)


def _image(side: str, name: str) -> tuple[str, ...]:
    return "network_data_format", side, name


_INPUT, _OUTPUT = _image("inputs", "image"), _image("outputs", "pred")
