"""Labels get codes from a mapping file or our table, or the import stops and leaves a file to complete."""

from pathlib import Path

import pytest

from dicomnode.errors import ModelError
from dicomnode.importers.naming import Structure, code_for, read_mapping, segments_for

SPLEEN, GIZMO = Structure("spleen", (1,)), Structure("gizmo", (2,))


def written(folder: Path, text: str) -> Path:
    (folder / "mapping.toml").write_text(text)
    return folder / "mapping.toml"


@pytest.mark.parametrize("name", ["kidney_left", "Left Kidney", "KIDNEY-LEFT", "leftKidney"])
def test_a_side_and_separators_are_understood(name: str):
    coded = code_for(name)
    assert coded is not None
    assert coded.type[0] == "64033007"
    assert coded.modifier == ("7771000", "SCT", "Left")


@pytest.mark.parametrize("name", ["gizmo", "", "left", "left right kidney"])
def test_what_is_not_in_the_table_is_not_guessed(name: str):
    assert code_for(name) is None


def test_the_template_is_completed_and_read_back(tmp_path: Path):
    template = tmp_path / "labels.toml"
    with pytest.raises(ModelError, match=r"found none for 'gizmo'; complete \S+, which has what is known"):
        segments_for([SPLEEN, GIZMO], {}, template)
    with pytest.raises(ModelError, match="label 'gizmo': expected codes, found TODO"):
        read_mapping(template)
    text = template.read_text().replace('"TODO", "SCT", "TODO"', '"260787004", "SCT", "Gizmo"')
    segments = segments_for([SPLEEN, GIZMO], read_mapping(written(tmp_path, text)), template)
    assert [(s.number, s.name, s.labels, s.type[2]) for s in segments] == [
        (1, "Spleen", (1,), "Spleen"),
        (2, "Gizmo", (2,), "Gizmo"),
    ]


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path):
    template = tmp_path / "labels.toml"
    template.write_text("# mine\n")
    with pytest.raises(ModelError, match="which was there already"):
        segments_for([GIZMO], {}, template)
    assert template.read_text() == "# mine\n"


def test_labels_may_be_left_out(tmp_path: Path):
    mapped = read_mapping(written(tmp_path, "[labels.gizmo]\nskip = true\n"))
    assert [s.labels for s in segments_for([SPLEEN, GIZMO], mapped, tmp_path / "t.toml")] == [(1,)]
    with pytest.raises(ModelError, match="at least one label that is not skipped"):
        segments_for([GIZMO], mapped, tmp_path / "t.toml")


def test_a_name_that_toml_has_to_quote_survives_the_template(tmp_path: Path):
    odd = Structure('a "b" \\ .ü\n', (1,))
    with pytest.raises(ModelError, match="found none"):
        segments_for([odd], {}, tmp_path / "t.toml")
    text = (tmp_path / "t.toml").read_text().replace('"TODO", "SCT", "TODO"', '"1", "99X", "B"')
    assert list(read_mapping(written(tmp_path, text))) == [odd.name]


def test_names_that_read_alike_stay_apart(tmp_path: Path):
    structures = [Structure("spleen", (1,)), Structure("Spleen", (2,))]
    names = [segment.name for segment in segments_for(structures, {}, tmp_path / "t.toml")]
    assert names == ["Spleen", "Spleen (2)"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", r"expected tables \[labels"),
        ("[labels.a]\n", r"label 'a': key 'category': Field required"),
        ("[labels.a]\ntype = 3\n", r"label 'a'"),
        ("[labels.a]\nskip = 'maybe'\n", r"label 'a': key 'skip'"),
        ("[labels.a]\nskip = false\n", r"label 'a': key 'category'"),
        ("[labels", r"expected TOML in UTF-8"),
    ],
)
def test_a_mapping_that_is_not_right_is_refused_by_label_and_key(text: str, sentence: str, tmp_path: Path):
    with pytest.raises(ModelError, match=sentence):
        read_mapping(written(tmp_path, text))


def test_a_mapping_of_labels_that_the_model_does_not_have_is_refused(tmp_path: Path):
    mapped = read_mapping(written(tmp_path, "[labels.splen]\nskip = true\n"))
    with pytest.raises(ModelError, match=r"expected labels of the model \('spleen'\), found 'splen'"):
        segments_for([SPLEEN], mapped, tmp_path / "t.toml")


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 5000 + "]" * 5000], ids=["digits", "depth"])
def test_a_mapping_that_the_reader_of_toml_gives_up_on_is_refused(text: str, tmp_path: Path):
    with pytest.raises(ModelError, match=r"mapping.toml: expected TOML in UTF-8, found: "):
        read_mapping(written(tmp_path, text))
