"""Rules: every condition of a route must hold for every instance of the series."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicomnode.config import Condition, Route
from dicomnode.errors import ConfigError
from dicomnode.routing.conditions import CONDITIONS, NUMERIC, Operand
from dicomnode.routing.headers import SeriesHeaders

NUMBER_OF_INSTANCES = "number_of_instances"

# PS3.4 B.5: what may be segmented. Results (SEG, SR, Secondary Capture, RTSTRUCT ...) are not in it, so a result
# that comes back to the node is never routed: no loops, whatever the rules say.
ROUTABLE_SOP_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
        "1.2.840.10008.5.1.4.1.1.4",  # MR Image
        "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.3",  # Enhanced MR Color
        "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    }
)
TELLABLE_VRS = frozenset({"CS", "DS", "IS", "US", "SS", "UL", "SL", "FL", "FD"})
RESULT_MODALITIES = frozenset({"SEG", "SR", "RTSTRUCT", "PR", "KO", "OT", "DOC", "M3D"})


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one attribute (or on the number of instances)."""

    keyword: str
    condition: str
    operand: Operand

    def __str__(self) -> str:
        return f"{self.keyword} {self.condition} {self.operand!r}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A route with its conditions understood."""

    route: Route
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The routes that want a series, and why the others do not."""

    routes: tuple[Route, ...]
    reasons: tuple[str, ...]


def build_rules(routes: Sequence[Route]) -> tuple[Rule, ...]:
    """Understand every route's conditions.

    Raises:
        ConfigError: a keyword the DICOM dictionary does not have, an unknown condition, a wrong operand.
    """
    return tuple(Rule(route, tuple(_requirements(route.name, route.match))) for route in routes)


def keywords_of(rules: Sequence[Rule]) -> frozenset[str]:
    """The DICOM keywords the rules ask for."""
    return frozenset(r.keyword for rule in rules for r in rule.requirements) - {NUMBER_OF_INSTANCES}


def route(rules: Sequence[Rule], headers: SeriesHeaders) -> Answer:
    """Which routes want the series; a reason for each that does not."""
    if reason := _never_routed(headers):
        return Answer((), (reason,))
    wanted: list[Route] = []
    reasons: list[str] = []
    for rule in rules:
        unmet = next((text for r in rule.requirements if (text := _unmet(r, headers))), None)
        if unmet is None:
            wanted.append(rule.route)
        else:
            reasons.append(f"route {rule.route.name}: {unmet}")
    return Answer(tuple(wanted), tuple(reasons))


def _never_routed(headers: SeriesHeaders) -> str | None:
    if others := headers.sop_class_uids - ROUTABLE_SOP_CLASSES:
        return f"SOP class {sorted(others)[0]} is not a CT or MR image: never routed"
    modalities = {v for attributes in headers.instances for v in attributes.get("Modality", ())}
    if results := modalities & RESULT_MODALITIES:
        return f"modality {sorted(results)[0]} is a result, not an image: never routed"
    return None


def _unmet(requirement: Requirement, headers: SeriesHeaders) -> str | None:
    test = CONDITIONS[requirement.condition]
    if requirement.keyword == NUMBER_OF_INSTANCES:
        count = str(len(headers.instances))
        return None if test((count,), requirement.operand) else f"expected {requirement}, found {count}"
    failing = [
        values
        for attributes in headers.instances
        if not test(values := attributes.get(requirement.keyword, ()), requirement.operand)
    ]
    if not failing:
        return None
    share = f"in {len(failing)} of {len(headers.instances)} instances"
    if not _may_be_told(requirement.keyword):
        return f"{requirement.keyword} is not as the route wants it {share}"
    found = "\\".join(failing[0])[:64]
    return f"expected {requirement}, found {found!r} {share}"


def _may_be_told(keyword: str) -> bool:
    """Reasons are read by many: only codes and numbers that are not about the patient are quoted in them."""
    return dictionary_VR(keyword) in TELLABLE_VRS and not keyword.startswith(("Patient", "OtherPatient"))


def _requirements(route_name: str, match: Mapping[str, Condition]) -> list[Requirement]:
    found: list[Requirement] = []
    for keyword, condition in match.items():
        if keyword != NUMBER_OF_INSTANCES and tag_for_keyword(keyword) is None:
            raise ConfigError(
                f"routes.{route_name}.match: expected a DICOM keyword such as Modality or {NUMBER_OF_INSTANCES}, "
                f"found {keyword!r}"
            )
        tests = condition if isinstance(condition, dict) else {"equals": condition}
        found += [_requirement(f"routes.{route_name}.match.{keyword}", keyword, name, tests[name]) for name in tests]
    return found


def _requirement(place: str, keyword: str, name: str, operand: Operand) -> Requirement:
    if name not in CONDITIONS:
        raise ConfigError(f"{place}: expected a condition among {', '.join(CONDITIONS)}, found {name!r}")
    if name in NUMERIC and not isinstance(operand, int | float):
        raise ConfigError(f"{place}.{name}: expected a number, found {operand!r}")
    if (name == "in") != isinstance(operand, list):
        raise ConfigError(f"{place}.{name}: expected {'a list' if name == 'in' else 'one value'}, found {operand!r}")
    if name == "regex":
        try:
            re.compile(str(operand))
        except re.error as error:
            raise ConfigError(f"{place}.regex: expected a regular expression, found {operand!r}: {error}") from error
    return Requirement(keyword, name, operand)
