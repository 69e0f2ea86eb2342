"""The structures of a bundle's result: its names for channels, followed through the steps behind the network."""

from collections.abc import Mapping, Sequence

from dicomnode.importers.naming import Structure
from dicomnode.models import after
from dicomnode.models.after import AfterStep


def structures_of(
    names: Mapping[int, str], prompts: Sequence[int], steps: Sequence[AfterStep], channels: int
) -> tuple[Structure, ...]:
    """The structures in the order of their first labels.

    Args:
        names: of the channels of the answer; with prompts, of the classes that they stand for.
        prompts: VISTA3D: the class that each channel behind the background stands for.
        steps: the stage's `after`.
        channels: of the answer.
    """
    if prompts:
        return tuple(Structure(names.get(prompt, f"class {prompt}"), (prompt,)) for prompt in sorted(prompts))
    decided = next(step for step in steps if isinstance(step, after.Decide))
    relabelled = [step for step in steps if isinstance(step, after.Relabel)]
    if decided.rule == "overlapping":
        return _of_sets(names, relabelled, channels)
    if decided.rule == "regions":  # one region, which is channel 0
        return (Structure(_named(names.get(0, names.get(1, "")), 1), (_final(1, relabelled) or 1,)),)
    return _merged(names, relabelled, channels)


def _of_sets(names: Mapping[int, str], relabelled: Sequence[after.Relabel], channels: int) -> tuple[Structure, ...]:
    """Regions that overlap: each is the union of the labels of all sets that it is in."""
    sets = range(1, 1 << channels)
    if relabelled:  # the sets were given labels of their own, which have no names
        labels = sorted({_final(found, relabelled) for found in sets} - {0})
        return tuple(Structure(f"label {label}", (label,)) for label in labels)
    return tuple(
        Structure(_named(names.get(region, ""), region), tuple(found for found in sets if found >> region & 1))
        for region in range(channels)
    )


def _merged(names: Mapping[int, str], relabelled: Sequence[after.Relabel], channels: int) -> tuple[Structure, ...]:
    """Labels that became one are one structure, by the names of all: no part may lend its code to the whole."""
    sources: dict[int, list[int]] = {}
    for label in range(1, channels):
        if final := _final(label, relabelled):
            sources.setdefault(final, []).append(label)
    return tuple(Structure(_of_parts(names, label, parts), (label,)) for label, parts in sorted(sources.items()))


def _of_parts(names: Mapping[int, str], final: int, parts: Sequence[int]) -> str:
    """What a label is called that some labels became, itself perhaps among them."""
    own = tuple(dict.fromkeys(_named(names.get(part, ""), part) for part in parts))
    if final not in parts and names.get(final) not in (None, "", *own):
        return f"label {final}"  # nobody can tell whether the bundle names labels before or after they change
    return " and ".join(own)


def _final(label: int, relabelled: Sequence[after.Relabel]) -> int:
    for step in relabelled:
        label = step.labels.get(label, label)
    return label


def _named(name: str, label: int) -> str:
    return name or f"label {label}"
