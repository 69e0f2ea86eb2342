"""The identity in a data set's first bytes, in every encoding and in the company of odd elements."""

from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicomnode.receive.elements import UnreadableDataSet
from dicomnode.receive.identity import InstanceIdentity, read_identity
from dicomnode.receive.services import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE

SYNTAXES = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
EXPECTED = InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", "1.2.3.1", "1.2.3.2", "1.2.3.3")


def data_set() -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = EXPECTED.sop_class_uid, EXPECTED.sop_instance_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = EXPECTED.study_instance_uid, EXPECTED.series_instance_uid
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.PatientName = "Phantom^Torso"
    ds.Rows = 4
    return ds


def encoded(ds: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax != EXPLICIT_BIG, syntax == IMPLICIT_LITTLE
    write_dataset(buffer, ds)
    return BytesIO(buffer.getvalue()).getvalue()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_four_uids_are_found_in_every_encoding(syntax: str) -> None:
    assert read_identity(memoryview(encoded(data_set(), syntax)), syntax) == EXPECTED


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_uids_inside_sequences_are_not_the_instances_own(syntax: str, undefined: bool) -> None:
    ds = data_set()
    inner, innermost = Dataset(), Dataset()
    innermost.StudyInstanceUID = "9.9.1"
    inner.SOPInstanceUID, inner.SeriesInstanceUID = "9.9.2", "9.9.3"
    inner.PurposeOfReferenceCodeSequence = Sequence([innermost])
    ds.SourceImageSequence = Sequence([inner, inner])
    ds.ReferencedStudySequence = Sequence([])
    for sequence in (ds["SourceImageSequence"], inner["PurposeOfReferenceCodeSequence"]):
        sequence.is_undefined_length = undefined
    inner.is_undefined_length_sequence_item = innermost.is_undefined_length_sequence_item = undefined
    assert read_identity(memoryview(encoded(ds, syntax)), syntax) == EXPECTED


def test_an_unknown_value_of_undefined_length_is_read_as_implicit() -> None:
    """CP-246: what a sender that did not know a private sequence makes of it."""
    raw = encoded(data_set(), EXPLICIT_LITTLE)
    place = raw.index(b"\x20\x00\x0d\x00UI")
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x09\x00\x02\x10\x04\x00\x00\x00abcd" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    unknown = b"\x19\x00\x01\x10UN\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert read_identity(memoryview(raw[:place] + unknown + raw[place:]), EXPLICIT_LITTLE) == EXPECTED


@pytest.mark.parametrize("missing", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_missing_uid_is_named(missing: str) -> None:
    ds = data_set()
    delattr(ds, missing)
    with pytest.raises(UnreadableDataSet, match=missing.removesuffix("InstanceUID").removesuffix("ClassUID")):
        read_identity(memoryview(encoded(ds, EXPLICIT_LITTLE)), EXPLICIT_LITTLE)


@pytest.mark.parametrize("evil", ["../../../../tmp/evil", "1.2.3/4", "", "1", "1" * 65, "1.2\\1.3", "1.2.3\n"])
def test_what_is_no_uid_is_refused(evil: str) -> None:
    raw = encoded(data_set(), EXPLICIT_LITTLE)
    good = b"UI\x08\x001.2.3.3\0"
    value = evil.encode() + b"\0" * (len(evil) % 2)
    bad = raw.replace(good, b"UI" + len(value).to_bytes(2, "little") + value)
    assert bad != raw
    with pytest.raises(UnreadableDataSet):
        read_identity(memoryview(bad), EXPLICIT_LITTLE)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_data_set_cut_before_its_series_is_refused_wherever_it_is_cut(syntax: str) -> None:
    raw = encoded(data_set(), syntax)
    end_of_series = raw.index(b"1.2.3.3") + 8
    for length in range(end_of_series):
        with pytest.raises(UnreadableDataSet):
            read_identity(memoryview(raw[:length]), syntax)
    assert read_identity(memoryview(raw[:end_of_series]), syntax) == EXPECTED


def test_the_wrong_transfer_syntax_is_noticed() -> None:
    with pytest.raises(UnreadableDataSet):
        read_identity(memoryview(encoded(data_set(), EXPLICIT_LITTLE)), EXPLICIT_BIG)
    with pytest.raises(UnreadableDataSet):
        read_identity(memoryview(encoded(data_set(), IMPLICIT_LITTLE)), EXPLICIT_LITTLE)


def test_nesting_without_end_is_refused() -> None:
    deep = (
        b"\x08\x00\x12\x21\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x12\x21\xff\xff\xff\xff" * 9999
    )
    with pytest.raises(UnreadableDataSet, match="nested"):
        read_identity(memoryview(deep), IMPLICIT_LITTLE)


def test_tags_that_do_not_rise_are_refused() -> None:
    raw = encoded(data_set(), EXPLICIT_LITTLE)
    study = raw[raw.index(b"\x20\x00\x0d\x00UI") :][:16]
    with pytest.raises(UnreadableDataSet, match="rising"):
        read_identity(memoryview(study + raw), EXPLICIT_LITTLE)
    with pytest.raises(UnreadableDataSet, match="rising"):
        read_identity(memoryview(raw.replace(study, study + study)), EXPLICIT_LITTLE)
