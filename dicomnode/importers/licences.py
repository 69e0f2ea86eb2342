"""The licence that comes with weights: what it is called, and whether it has to be accepted before they run."""

import re

from dicomnode.models.manifest import Licence

_MOST_CHARACTERS = 20_000
_RESTRICTED = re.compile(r"non-?\s?commercial|NCLS|CC[- ]BY[- ]NC|research (use )?only", re.IGNORECASE)


def licence_of(name: str, text: str = "") -> Licence:
    """A licence as it is stated; one that restricts the use of the weights has to be accepted.

    Args:
        name: what it is called; "": nobody said.
        text: all of it, where it is there.
    """
    restricted = _RESTRICTED.search(f"{name} {text}") is not None
    return Licence(name=name or "Not stated", must_be_accepted=restricted, text=text[:_MOST_CHARACTERS] or None)
