"""What the outputs of an nnU-Net mean: classes that exclude each other, or regions painted over one another."""

from dataclasses import dataclass
from pathlib import Path

from dicomnode.errors import ModelError
from dicomnode.importers.naming import Structure
from dicomnode.importers.nnunet_plans import Dataset, LabelValue
from dicomnode.models.after import Activate, AfterStep, Decide

_IGNORE, _BACKGROUND = "ignore", "background"
_MOST_LABELS = 65534


@dataclass(frozen=True, slots=True)
class NnunetLabels:
    """The labels of a data set as nnU-Net's LabelManager reads them."""

    outputs: int  # of the network
    regions: tuple[int, ...] | None  # what each region writes, later ones over earlier ones
    foreground: tuple[int, ...]  # the labels that a cascade's second stage sees as channels, in order
    structures: tuple[Structure, ...]

    @property
    def steps(self) -> tuple[AfterStep, ...]:
        """From scores on the scanner's grid to labels."""
        if self.regions is None:
            return (Decide(step="decide"),)
        return (
            Activate(step="activate", function="sigmoid"),
            Decide(step="decide", rule="regions", values=self.regions),
        )


def read_labels(dataset: Dataset, path: Path) -> NnunetLabels:
    """The labels of dataset.json.

    Raises:
        ModelError: they are not what nnU-Net could have trained with; names file and key.
    """
    _check(dataset, path)
    named = {name: _values(value) for name, value in dataset.labels.items() if name != _IGNORE}
    known = sorted({label for values in named.values() for label in values})
    _check_ignored(dataset, known, path)
    has_regions = any(not isinstance(value, int) and len(value) > 1 for value in dataset.labels.values())
    if has_regions:
        return _regions(dataset, {name: values for name, values in named.items() if set(values) != {0}}, known, path)
    # The network has one output for each label, in ascending order: the n-th is written as n.
    place = {label: index for index, label in enumerate(known)}
    structures = [Structure(n, tuple(place[v] for v in values)) for n, values in named.items() if set(values) != {0}]
    return NnunetLabels(len(known), None, tuple(known[1:]), tuple(structures))


def _regions(dataset: Dataset, named: dict[str, tuple[int, ...]], known: list[int], path: Path) -> NnunetLabels:
    order = dataset.regions_class_order
    if order is None or len(order) != len(named):
        found = "none" if order is None else str(len(order))
        raise ModelError(f"{path}: regions_class_order: expected one for each of {len(named)} regions, found {found}")
    if any(not 1 <= label <= _MOST_LABELS for label in order):
        raise ModelError(f"{path}: regions_class_order: expected labels from 1 to {_MOST_LABELS}, found {list(order)}")
    painted = set(order)
    structures = [
        Structure(name, tuple(sorted({*painted.intersection(values), own})))
        for (name, values), own in zip(named.items(), order, strict=True)
    ]
    return NnunetLabels(len(named), order, tuple(label for label in known if label != 0), tuple(structures))


def _check(dataset: Dataset, path: Path) -> None:
    background = dataset.labels.get(_BACKGROUND)
    if background != 0 or isinstance(background, tuple):
        raise ModelError(f"{path}: labels.{_BACKGROUND}: expected 0, found {background}")
    for name, value in dataset.labels.items():
        if any(not 0 <= label <= _MOST_LABELS for label in _values(value)) or not _values(value):
            raise ModelError(f"{path}: labels.{name}: expected labels from 0 to {_MOST_LABELS}, found {value}")
    if len(dataset.labels) < 2:
        raise ModelError(f"{path}: labels: expected a structure beside the background, found none")


def _check_ignored(dataset: Dataset, known: list[int], path: Path) -> None:
    ignored = dataset.labels.get(_IGNORE)
    if ignored is not None and ignored != known[-1] + 1:
        raise ModelError(f"{path}: labels.{_IGNORE}: expected {known[-1] + 1}, one above the others; found {ignored}")


def _values(value: LabelValue) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value
