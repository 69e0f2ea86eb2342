"""The code table: every code is a published one, and names are found however they are written."""

import csv
from collections.abc import Iterator
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr._concepts_dict import concepts  # pyright: ignore[reportPrivateUsage]

from dicomnode.importers.totalsegmentator_tasks import catalogue
from dicomnode.models.codes import Coded, code_for, readable

# Codes of SNOMED CT that pydicom's copy of PS3.16 does not have, and where they are published:
# "totalsegmentator": totalsegmentator_snomed_mapping.csv of TotalSegmentator 2.18 and of SlicerTotalSegmentator (one
# misspelt meaning corrected: "minius"); "mcode-tg263": HL7 mCODE, RadiotherapyTreatmentLocationVS, after AAPM TG-263;
# "totalsegmentator-wrapper": the additional types of a public wrapper of TotalSegmentator.
ELSEWHERE = {
    "totalsegmentator": {
        *("48535007", "78247007", "25888004", "25523003", "15339008", "59558009"),  # ribs 1 to 6
        *("24915002", "5953002", "22565002", "77644006", "58830002", "43993008"),  # ribs 7 to 12
        *("83936004", "28641004", "110765007", "74281007", "67769002", "47351003"),
        *("181674001", "78333006", "75297007", "244849004", "68455001"),  # muscles
    },
    "mcode-tg263": {
        *("65985001", "3572006", "24999009", "90228003", "52940008", "8600008", "80169004"),
        *("86483002", "88481005", "46105003"),
        *("79368004", "52927003", "88938001", "85002005", "52410001", "18252004", "4866005"),  # muscles
    },
    "totalsegmentator-wrapper": {"360499006"},
}
# Classes of TotalSegmentator that no source has a code for: their import asks for a mapping.
WITHOUT_CODE = {
    "total_v3": {"vertebrae_L6"},
    "lung_vessels": {"lung_airways_wall"},
    "headneck_bones_vessels": {
        *("larynx_air", "zygomatic_arch_right", "zygomatic_arch_left"),
        *("styloid_process_right", "styloid_process_left"),
    },
    "headneck_muscles": {
        *("superior_pharyngeal_constrictor", "middle_pharyngeal_constrictor", "inferior_pharyngeal_constrictor"),
        *("levator_scapulae_right", "levator_scapulae_left", "middle_scalene_right", "middle_scalene_left"),
        *("posterior_scalene_right", "posterior_scalene_left", "sterno_thyroid_right", "sterno_thyroid_left"),
        *("thyrohyoid_right", "thyrohyoid_left", "prevertebral_right", "prevertebral_left"),
    },
    "oculomotor_muscles": {
        f"{muscle}_{side}"
        for side in ("left", "right")
        for muscle in (
            *("lateral_rectus_muscle", "medial_rectus_muscle", "superior_rectus_muscle", "inferior_rectus_muscle"),
            *("superior_oblique_muscle", "inferior_oblique_muscle", "levator_palpebrae_superioris"),
        )
    },
    "ventricle_parts": {
        *("ventricle_body_left", "ventricle_body_right", "ventricle_trigone_left", "ventricle_trigone_right"),
    },
    "abdominal_muscles": {
        f"{muscle}_{side}"
        for side in ("left", "right")
        for muscle in (
            *("rectus_abdominis", "external_oblique", "internal_oblique", "transversospinalis"),
            *("psoas_major", "quadratus_lumborum"),
        )
    },
    "teeth": {
        *("bridge", "crown", "lingual_canal", "left_inferior_alveolar_canal", "right_inferior_alveolar_canal"),
        *("left_mandibular_incisive_canal_fdi103", "right_mandibular_incisive_canal_fdi104"),
        *(name for name in catalogue().tasks["teeth"].classes if "_pulp_" in name),
    },
    "brain_structures": {"venous_sinuses", "septum_pellucidum", "lentiform_nucleus", "central_sulcus"},
    "tissue_4_types": {"intermuscular_fat"},
    "pulmonary_artery_landmarks": {
        *("annulus", "pul_annulus", "pul_sinotubular_junction", "pul_bifurcation", "pul_left_start"),
        "pul_right_start",
    },
}
_THIGH = ("quadriceps_femoris", "thigh_medial_compartment", "thigh_posterior_compartment", "sartorius")
for _task in ("thigh_shoulder_muscles", "thigh_shoulder_muscles_mr"):
    WITHOUT_CODE[_task] = {f"{name}_{side}" for name in _THIGH for side in ("left", "right")}
    WITHOUT_CODE[_task] |= {"coracobrachial", "triceps_brachii"}
ONE_CODE_FOR_TWO = {frozenset({"phalanges_feet", "phalanges_hand"})}  # they differ by their region


def rows() -> list[dict[str, str]]:
    text = files("dicomnode.models.codes").joinpath("structures.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def meanings(scheme: str, value: str) -> set[str]:
    return {found[value][0] for found in concepts[scheme].values() if value in found}


def coded_of_table() -> Iterator[Coded]:
    for row in rows():
        for side in ("", "left", "right") if row["side"] == "both" else (row["side"],):
            coded = code_for(f"{row['name']}_{side}")
            assert coded is not None, row["name"]
            yield coded


def ends_in_verhoeff_digit(digits: str) -> bool:
    """The check digit of a SNOMED CT identifier (SNOMED CT Technical Implementation Guide, SCTID)."""
    permutation = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    check = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit)
        for _ in range(place % 8):
            number = permutation[number]
        check = _product(check, number)
    return check == 0


def _product(first: int, second: int) -> int:
    """Of the dihedral group of order ten."""
    if first < 5:
        return (first + second) % 5 if second < 5 else (first + second - 5) % 5 + 5
    return (first - 5 - second) % 5 + 5 if second < 5 else (first - second) % 5


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['name']}-{row['side']}")
def test_every_code_is_in_pydicoms_copy_of_the_standard_or_in_a_source_that_is_named(row: dict[str, str]) -> None:
    if row["source"] == "pydicom":
        assert row["meaning"] in meanings(row["scheme"], row["value"])
    else:
        assert row["value"] in ELSEWHERE[row["source"]]
        assert not meanings(row["scheme"], row["value"])


def test_categories_modifiers_and_regions_are_those_of_the_standard() -> None:
    for coded in coded_of_table():
        for code in filter(None, (coded.category, coded.modifier, coded.region)):
            assert code.meaning in meanings(code.scheme, code.value), code


def test_every_snomed_code_ends_in_its_check_digit() -> None:
    assert ends_in_verhoeff_digit("10200004")
    assert not ends_in_verhoeff_digit("10200003")
    wrong = [row["name"] for row in rows() if row["scheme"] == "SCT" and not ends_in_verhoeff_digit(row["value"])]
    assert wrong == []


def test_every_text_fits_its_attribute_and_every_colour_is_one() -> None:
    for coded in coded_of_table():
        assert 1 <= len(coded.name) <= 64  # VR LO (PS3.5 6.2)
        for code in filter(None, (coded.category, coded.type, coded.modifier, coded.region)):
            assert 1 <= len(code.value) <= 16  # VR SH
            assert 1 <= len(code.meaning) <= 64
            assert "TODO" not in code.meaning
        assert all(0 <= channel <= 255 for channel in coded.colour_rgb)


@pytest.mark.parametrize("task", catalogue().tasks)
def test_every_class_of_totalsegmentator_has_a_code_or_is_known_to_have_none(task: str) -> None:
    without = {name for name in catalogue().tasks[task].classes if code_for(name) is None}
    assert without == WITHOUT_CODE.get(task, set())


@pytest.mark.parametrize("task", catalogue().tasks)
def test_two_classes_of_a_task_never_share_code_and_side_or_a_colour(task: str) -> None:
    by_code: dict[object, str] = {}
    by_colour: dict[object, str] = {}
    for name in catalogue().tasks[task].classes:
        coded = code_for(name)
        if coded is None:
            continue
        other = by_code.setdefault((coded.type, coded.modifier), name)
        assert other == name or frozenset({other, name}) in ONE_CODE_FOR_TWO
        assert by_colour.setdefault(coded.colour_rgb, name) == name


@pytest.mark.parametrize(
    ("name", "meaning", "side"),
    [
        ("kidney_left", "Kidney", "Left"),
        ("Left Kidney", "Kidney", "Left"),
        ("KidneyR", "Kidney", "Right"),
        ("Kidney_R", "Kidney", "Right"),
        ("kidneys", "Kidney", None),
        ("rib_right_7", "Seventh rib", "Right"),
        ("left_maxillary_sinus", "Maxillary sinus", "Left"),
        ("heart_atrium_left", "Left atrium", None),  # the type itself names the side
        ("vertebrae_L5", "L5 vertebra", None),
        ("head of femur left", "Femoral head", "Left"),
        ("Oesophagus", "Esophagus", None),
        ("RightParotid", "Parotid gland", "Right"),
        ("SpinalCord", "Spinal cord", None),
    ],
)
def test_a_name_is_found_however_it_is_written(name: str, meaning: str, side: str | None) -> None:
    coded = code_for(name)
    assert coded is not None
    assert coded.type.meaning == meaning
    assert (coded.modifier.meaning if coded.modifier else None) == side


@pytest.mark.parametrize("name", ["", "left", "liver_left", "spam", "kidney_left_right", "class 3", "kidney-ish"])
def test_what_the_table_does_not_have_gets_no_code(name: str) -> None:
    assert code_for(name) is None


def test_the_regions_of_findings_and_devices_are_told() -> None:
    nodule, implant = code_for("lung_nodules"), code_for("hip_implant")
    assert nodule is not None
    assert nodule.region is not None
    assert implant is not None
    assert (nodule.category.meaning, nodule.region.meaning) == ("Morphologically Abnormal Structure", "Lung")
    assert (implant.category.meaning, implant.type.meaning) == ("Physical object", "Implant")


def test_the_radiotherapy_organs_at_risk_of_openkbp_are_all_coded() -> None:
    names = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
    assert all(code_for(name) for name in names)


@given(st.text(max_size=80))
def test_any_text_may_be_asked_for(name: str) -> None:
    coded = code_for(name)
    assert coded is None or coded.type.value
    assert isinstance(readable(name), str)
