"""UIDs: what may be received, and what the node derives."""

from hypothesis import given
from hypothesis import strategies as st

from dicomnode.imaging import derived_uid, is_acceptable_uid, is_valid_uid

words = st.lists(st.text(max_size=20), min_size=1, max_size=4)


@given(words)
def test_a_derived_uid_is_valid_and_the_same_for_the_same_words(names: list[str]):
    uid = derived_uid(*names)
    assert is_valid_uid(uid)
    assert uid == derived_uid(*names)


@given(words, words)
def test_other_words_make_another_uid(one: list[str], other: list[str]):
    assert (derived_uid(*one) == derived_uid(*other)) == ("\0".join(one) == "\0".join(other))


def test_uids_that_could_leave_a_folder_or_a_field_are_not_acceptable():
    for uid in ("../../tmp/evil", "1.2.3/4", "1.2.3\0", "", "1", "1..2", ".1.2", "1.2.", "1." + "2" * 64, "1.2 "):
        assert not is_acceptable_uid(uid)


def test_leading_zeros_are_forgiven_in_what_is_received_but_not_valid():
    assert is_acceptable_uid("1.2.003.4")
    assert not is_valid_uid("1.2.003.4")
    assert is_valid_uid("1.2.0.4")
