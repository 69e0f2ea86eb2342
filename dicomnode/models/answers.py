"""Which labels the stages of a model can say: what its segments and later stages are made of has to be among them."""

from collections.abc import Iterable, Mapping, Sequence

from dicomnode.models.after import Decide, Relabel
from dicomnode.models.before import AddLabels, CropToStage
from dicomnode.models.stages import Network, Stage

_MOST_REGIONS = 15  # that overlap: bits of a label


def require_known_labels(stages: Sequence[Stage], networks: Mapping[str, Network]) -> frozenset[int]:
    """The labels that the stages write into the result.

    Raises:
        ValueError: a stage writes, or looks at, a label that the stage it is from cannot say.
    """
    said = {stage.name: labels_said(stage, networks[stage.networks[0]].out_channels) for stage in stages}
    for stage in stages:
        for step in stage.before:
            if isinstance(step, CropToStage | AddLabels):
                where = f"labels in step {step.step!r} of stage {stage.name!r}"
                require_among(step.labels, said[step.stage], f"{where} that stage {step.stage!r} can say")
        if isinstance(stage.writes, Mapping):
            require_among(stage.writes, said[stage.name], f"writes of labels that stage {stage.name!r} can say")
    return frozenset[int]().union(*(_written(stage, said[stage.name]) for stage in stages))


def require_among(labels: Iterable[int], known: frozenset[int], what: str) -> None:
    """Pass where all labels are known.

    Raises:
        ValueError: expected `what`, and the labels that are not.
    """
    if unknown := sorted(set(labels) - known):
        raise ValueError(f"expected {what}, {_listed(sorted(known))}; found {_listed(unknown)}")


def labels_said(stage: Stage, classes: int) -> frozenset[int]:
    """The labels but background that a stage can come to, whose networks score so many classes."""
    said: frozenset[int] = frozenset()
    for step in stage.after:
        if isinstance(step, Decide):
            said = _decided(step, classes)
        elif isinstance(step, Relabel):
            said = frozenset(step.labels.get(label, label) for label in said) - {0}
    return said


def _decided(step: Decide, classes: int) -> frozenset[int]:
    if step.rule == "regions":
        return frozenset(step.values)
    return frozenset(range(1, 1 << min(classes, _MOST_REGIONS) if step.rule == "overlapping" else classes))


def _written(stage: Stage, said: frozenset[int]) -> frozenset[int]:
    if isinstance(stage.writes, str):
        return said if stage.writes == "all" else frozenset()
    return frozenset(stage.writes.values())


def _listed(labels: Sequence[int]) -> str:
    """Labels in order, runs of them by their ends, not more than a line can hold."""
    runs: list[list[int]] = []
    for label in labels:
        if runs and label == runs[-1][1] + 1:
            runs[-1][1] = label
        else:
            runs.append([label, label])
    shown = [str(first) if first == last else f"{first}..{last}" for first, last in runs[:8]]
    return ", ".join([*shown, "..."] if len(runs) > 8 else shown) or "none"
