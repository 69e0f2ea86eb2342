"""Routing: rules from node.toml over the headers of all instances of a series."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from dicomnode.config import Condition, Route
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.errors import ConfigError, UnusableSeries
from dicomnode.imaging import Geometry, Instance, Series
from dicomnode.routing import SeriesHeaders, build_rules, keywords_of, patient_key_of, read_series_headers, route

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def a_route(match: Mapping[str, Condition], name: str = "torso") -> Route:
    return Route(name=name, match=match, model="torso", destinations=("pacs",))


def headers(*instances: dict[str, tuple[str, ...]], sop_class: str = CT) -> SeriesHeaders:
    return SeriesHeaders(tuple({"Modality": ("CT",)} | i for i in instances), frozenset({sop_class}), "key")


def matches(match: Mapping[str, Condition], found: SeriesHeaders) -> bool:
    return bool(route(build_rules([a_route(match)]), found).routes)


@pytest.mark.parametrize(
    ("condition", "value", "expected"),
    [
        ("CHEST", ("chest ",), True),
        ("CHEST", ("ABDOMEN",), False),
        ("CHEST", (), False),
        (5, ("5.000",), True),
        ({"in": ["CHEST", "ABDOMEN"]}, ("ABDOMEN",), True),
        ({"in": ["CHEST", "ABDOMEN"]}, ("HEAD",), False),
        ({"regex": "^abd|thorax"}, ("Thorax nativ",), True),
        ({"regex": "^abd"}, ("Nicht abd",), False),
        ({"min": 1, "max": 5}, ("5.0",), True),
        ({"min": 1, "max": 5}, ("5.1",), False),
        ({"max": 5}, (), False),
        ({"max": 5}, ("thin",), False),
        ({"contains": "AXIAL"}, ("ORIGINAL", "PRIMARY", "AXIAL"), True),
        ({"contains": "AXIAL"}, ("ORIGINAL", "PRIMARY", "LOCALIZER"), False),
        ({"excludes": "LOCALIZER"}, ("ORIGINAL", "PRIMARY", "LOCALIZER"), False),
        ({"excludes": "LOCALIZER"}, (), True),
    ],
)
def test_each_condition_means_what_node_toml_says(condition: Condition, value: tuple[str, ...], expected: bool):
    assert matches({"SeriesDescription": condition}, headers({"SeriesDescription": value})) is expected


def test_every_condition_must_hold_for_every_instance():
    rule: dict[str, Condition] = {"SliceThickness": {"max": 5}, "BodyPartExamined": "CHEST"}
    thin = {"SliceThickness": ("2.0",), "BodyPartExamined": ("CHEST",)}
    assert matches(rule, headers(thin, thin))
    assert not matches(rule, headers(thin, thin | {"SliceThickness": ("10.0",)}))
    assert not matches(rule, headers(thin | {"BodyPartExamined": ("HEAD",)}))


def test_the_number_of_instances_is_a_condition():
    rule: dict[str, Condition] = {"number_of_instances": {"min": 3}}
    assert matches(rule, headers({}, {}, {}))
    assert not matches(rule, headers({}, {}))


def test_a_series_no_route_wants_gets_an_answer_with_the_reason_and_the_numbers():
    answer = route(
        build_rules([a_route({"SliceThickness": {"max": 5}})]),
        headers({"SliceThickness": ("7.5",)}, {"SliceThickness": ("2",)}),
    )
    assert answer.routes == ()
    assert answer.reasons == ("route torso: expected SliceThickness max 5, found '7.5' in 1 of 2 instances",)


def test_a_reason_never_tells_who_the_patient_is():
    answer = route(build_rules([a_route({"PatientName": "Nobody"})]), headers({"PatientName": ("Real^Person",)}))
    said = " ".join(answer.reasons)
    assert "PatientName is not as the route wants it in 1 of 1 instances" in said
    assert "Real" not in said
    assert "Nobody" not in said


def test_results_never_match_whatever_the_rules_say():
    everything: dict[str, Condition] = {}
    assert matches(everything, headers({}))
    assert not matches(everything, headers({}, sop_class=SEG))
    assert not matches(everything, headers({"Modality": ("SEG",)}))


def test_one_series_may_have_several_routes():
    rules = build_rules([a_route({}, "one"), a_route({"Modality": "CT"}, "two"), a_route({"Modality": "MR"}, "three")])
    assert [r.name for r in route(rules, headers({})).routes] == ["one", "two"]


@pytest.mark.parametrize(
    ("match", "said"),
    [
        ({"Modalty": "CT"}, "expected a DICOM keyword such as Modality or number_of_instances, found 'Modalty'"),
        ({"Modality": {"like": "CT"}}, "expected a condition among equals, in, regex"),
        ({"SliceThickness": {"max": "5"}}, "expected a number, found '5'"),
        ({"Modality": {"in": "CT"}}, "expected a list, found 'CT'"),
        ({"Modality": {"equals": ["CT"]}}, "expected one value, found"),
        ({"Modality": {"regex": "(CT"}}, "expected a regular expression, found '(CT'"),
    ],
)
def test_a_wrong_rule_is_a_configuration_error_that_names_the_place(match: dict[str, Condition], said: str):
    with pytest.raises(ConfigError) as error:
        build_rules([a_route(match)])
    assert said in str(error.value)
    assert "routes.torso.match" in str(error.value)


def a_series(folder: Path) -> Series:
    affine = np.diag([3.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]
    identity = SeriesIdentity("routing", patient_id="P1")
    voxels = np.zeros((3, 4, 4), np.int16)
    slices = build_ct_slices(voxels, Geometry(affine, voxels.shape, identity.frame_of_reference_uid), identity)
    paths = write_series(slices, folder)
    return Series(
        identity.series_instance_uid,
        tuple(
            Instance(
                s.SOPInstanceUID,
                s.SOPClassUID,
                s.SeriesInstanceUID,
                s.StudyInstanceUID,
                "1.2.840.10008.1.2.1",
                path,
                "0" * 64,
                path.stat().st_size,
            )
            for s, path in zip(slices, paths, strict=True)
        ),
    )


def test_headers_are_read_from_every_file_with_the_patients_pseudonym(tmp_path: Path):
    rules = build_rules([a_route({"ImageType": {"contains": "AXIAL"}, "BodyPartExamined": "ABDOMEN"})])
    found = read_series_headers(a_series(tmp_path), keywords_of(rules))
    assert len(found.instances) == 3
    assert found.instances[0]["ImageType"] == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert found.patient_key == patient_key_of("P1")
    assert "P1" not in str(found)
    assert [r.name for r in route(rules, found).routes] == ["torso"]


def test_a_file_that_is_not_dicom_any_more_is_named(tmp_path: Path):
    series = a_series(tmp_path)
    series.instances[1].path.write_bytes(b"not DICOM at all" * 40)
    with pytest.raises(UnusableSeries) as error:
        read_series_headers(series, ["Modality"])
    assert series.instances[1].sop_instance_uid in error.value.verdicts[0].sop_instance_uids  # type: ignore[attr-defined]
