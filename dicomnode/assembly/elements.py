"""Single attributes of a data set as floats, integers and text, whatever a scanner wrote into them.

Values are taken from the raw bytes: real decimal strings are longer than PS3.5 6.2 allows, or read
`008.000000E+00`, and pydicom would warn about each of them in each of thousands of slices. A warning about a
damaged value would also quote the bytes beside it, which may be the patient's name.
"""

from collections.abc import Sequence

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag


class Elements:
    """Read access to one data set (or sequence item) by keyword."""

    def __init__(self, dataset: Dataset, *, little_endian: bool = True) -> None:
        self._dataset = dataset
        self._little_endian = little_endian

    def text(self, keyword: str) -> str:
        """The value without padding, `""` where the attribute is absent or empty."""
        value = self._value(keyword)
        text = value.decode("latin-1") if isinstance(value, bytes) else _joined(value)
        return text.strip(" \0\t\r\n")

    def words(self, keyword: str) -> tuple[str, ...]:
        """The values of a multi-valued text attribute, without padding."""
        text = self.text(keyword)
        return tuple(word.strip(" \0") for word in text.split("\\")) if text else ()

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The values of a decimal string.

        Raises:
            ValueError: a value is not a number.
        """
        return tuple(float(word) for word in self.words(keyword) if word)

    def number(self, keyword: str, default: float) -> float:
        """The first value of a decimal string, `default` where the attribute is absent or empty."""
        return next(iter(self.numbers(keyword)), default)

    def unsigned(self, keyword: str) -> int | None:
        """The first value of a US or SS attribute as the unsigned 16-bit word that stands in the file."""
        value = self._value(keyword)
        if isinstance(value, bytes):
            return int.from_bytes(value[:2], "little" if self._little_endian else "big") if len(value) >= 2 else None
        return int(str(value)) & 0xFFFF if isinstance(value, int) else None

    def long(self, keyword: str) -> int:
        """The first value of a UL attribute, 0 where it is absent."""
        value = self._value(keyword)
        if isinstance(value, bytes):
            return int.from_bytes(value[:4], "little" if self._little_endian else "big")
        return value if isinstance(value, int) else 0

    def items(self, keyword: str) -> tuple["Elements", ...]:
        """The items of a sequence, none where it is absent."""
        tag = Tag(keyword)
        if tag not in self._dataset:
            return ()
        value = self._dataset[tag].value
        return tuple(Elements(item, little_endian=self._little_endian) for item in value) if value else ()

    def _value(self, keyword: str) -> object:
        tag: BaseTag = Tag(keyword)
        if tag not in self._dataset:
            return b""
        element = self._dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            return element.value or b""
        return b"" if element.value is None else element.value


def _joined(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "\\".join(str(word) for word in value)
    return str(value)
