"""What a manifest may say, and how a wrong one is answered."""

from collections.abc import Callable

import pytest

from dicomnode.errors import ModelError
from dicomnode.imaging import CodedConcept
from dicomnode.models import parse_manifest
from tests.toy_models import Document, segment, to_toml, toy_manifest, toy_network, toy_stage

Change = Callable[[Document], object]


def test_a_complete_manifest_is_read() -> None:
    document = toy_manifest()
    document["segments"][0]["modifier"] = ["7771000", "SCT", "Left"]
    manifest = parse_manifest(to_toml(document), "manifest.toml")
    (stage,) = manifest.stages
    assert [step.step for step in stage.before] == ["orient", "resample", "pad", "channels"]
    assert [step.step for step in stage.after] == ["activate", "back", "decide"]
    assert (stage.name, stage.windows.patch, stage.writes) == ("main", "whole", "all")
    assert manifest.segments[0].segment.modifier == CodedConcept("7771000", "SCT", "Left")


def test_a_model_of_one_file_is_named_by_its_digest() -> None:
    document = {**toy_manifest(), "digests": {"weights.safetensors": "ab" * 32}}
    assert parse_manifest(to_toml(document), "manifest.toml").digest == "ab" * 32


def before(number: int, **keys: object) -> Change:
    """Change a step before the network."""
    return lambda d: d["stages"][0]["before"][number].update(keys)


def without(table: str, key: str) -> Change:
    """Leave a key out."""
    return lambda d: d[table].pop(key)


def two_stages(second: Document) -> Change:
    """A second stage, with the changes named."""
    return lambda d: d["stages"].append({**toy_stage(), "name": "fine", **second})


def crop_to_main(label: int) -> Change:
    """A second stage that looks at a label of the first."""
    return two_stages({"before": [{"step": "crop-to-stage", "stage": "main", "labels": [label]}]})


def behind(*steps: Document) -> Change:
    """Other steps behind the network."""
    return lambda d: d["stages"][0].update(after=list(steps))


BACK = {"step": "back"}
FACES = {"step": "resample", "spacing_mm": [2.0, 2.0, 2.0], "grid": "faces"}
SECOND = {"two": {**toy_network(3), "file": "two.safetensors"}}
WRONG: dict[str, tuple[Change, str]] = {
    "unknown key": (lambda d: d.update(licens="x"), "unknown key 'licens'; docs/models.md"),
    "unknown key of a table": (lambda d: d["input"].update(spacing=1), "unknown key 'input.spacing'"),
    "unknown key of a step": (before(1, spacing=1), "unknown key 'stages.0.before.1.resample.spacing'"),
    "missing key": (lambda d: d.pop("licence"), "key 'licence' is missing"),
    "missing key of a table": (without("input", "modalities"), "key 'input.modalities' is missing"),
    "format of the past": (lambda d: d.update(format=1), "key 'format'.*2.*found 1"),
    "wrong type": (lambda d: d.update(diagnostic="perhaps"), "key 'diagnostic'.*found 'perhaps'"),
    "digest that is none": (lambda d: d.update(digests={"weights.safetensors": "abc"}), "digests.*found 'abc'"),
    "file that is a path": (lambda d: d.update(digests={"../weights": "ab" * 32}), "digests.*pattern"),
    "a licence that the package accepts itself": (
        lambda d: d.update(golden={"licence-accepted.json": "ab" * 32}),
        "golden.*another name than 'licence-accepted.json', a file that the node writes itself",
    ),
    "a manifest among the files": (lambda d: d["digests"].update({"Manifest.toml": "ab" * 32}), "than 'Manifest.toml'"),
    "a card as weights": (
        lambda d: (d["networks"]["toy"].update(file="MODEL_CARD.md"), d.update(digests={"MODEL_CARD.md": "ab" * 32})),
        "networks.toy.file.*another name than 'MODEL_CARD.md'",
    ),
    "digest of another file": (
        lambda d: d.update(digests={"w": "ab" * 32}),
        r"files \['weights.safetensors'\].*\['w'\]",
    ),
    "orientation": (before(0, axes="SPP"), "stages.0.before.0.orient.axes.*found 'SPP'"),
    "a step that is none": (before(0, step="rotate"), "stages.0.before.0.*'orient'"),
    "spacing of zero": (before(1, spacing_mm=[0, 1, 1]), "spacing_mm.0.*greater than 0.*found 0"),
    "spacing of next to nothing": (before(1, spacing_mm=[1, 1e-12, 1]), "spacing_mm.1.*greater than 0.01.*found 1e-12"),
    "clip upside down": (before(3, views=[{"clip": [9, 1], "to": [0, 1]}]), r"clip.*found \[9.0, 1.0\]"),
    "no views": (before(3, views=[]), "views.*at least 1"),
    "a patch of another dimension": (
        lambda d: d["stages"][0].update(windows={"patch": [24, 24]}),
        r"patch of 3 sizes in stage 'main', found \[24, 24\]",
    ),
    "patch off the multiple": (
        lambda d: d["stages"][0].update(windows={"patch": [24, 24, 20], "multiple": 8}),
        r"multiples of 8.*\[24, 24, 20\]",
    ),
    "overlap of one": (
        lambda d: d["stages"][0].update(windows={"overlap": 1}),
        "windows.overlap.*less than or equal to 0.99",
    ),
    "an overlap by which windows hardly move": (
        lambda d: d["stages"][0].update(windows={"patch": [96, 96, 96], "overlap": 0.999}),
        "windows.overlap.*less than or equal to 0.99",
    ),
    "an axis mirrored twice": (
        lambda d: d["stages"][0].update(windows={"mirror_axes": [1, 1]}),
        r"mirror_axes once, found \[1, 1\]",
    ),
    "no decision": (lambda d: d["stages"][0]["after"].pop(), "one step 'decide' in after, found 0"),
    "two ways back": (lambda d: d["stages"][0]["after"].append({"step": "back"}), "one step 'back' in after, found 2"),
    "a network that is not there": (lambda d: d["stages"][0].update(networks=["x"]), r"\['toy'\], found \['x'\]"),
    "two stages of one name": (two_stages({"name": "main"}), "found 'main' twice"),
    "a stage that looks ahead": (
        two_stages({"before": [{"step": "crop-to-stage", "stage": "later", "labels": [1]}]}),
        r"'fine' to look at earlier stages, found \['later'\]",
    ),
    "networks that are not alike": (
        lambda d: (
            d["networks"].update(SECOND),
            d["digests"].update({"two.safetensors": "0" * 64}),
            d["stages"][0].update(networks=["toy", "two"]),
        ),
        "networks of stage 'main' to be alike",
    ),
    "half precision that is not near enough": (lambda d: d.update(verified={"bf16": 0.99}), "verified.bf16.*0.999"),
    "segments out of order": (lambda d: d["segments"][0].update(number=2), r"numbered 1..n in order, found \[2\]"),
    "two segments of one name": (
        lambda d: d["segments"].append(segment(2, "Bright", [1])),
        r"distinct names.*'Bright', 'Bright'",
    ),
    "a label twice": (lambda d: d["segments"][0].update(labels=[1, 1]), r"each label once.*\(1, 1\)"),
    "the background as a structure": (lambda d: d["segments"][0].update(labels=[0]), "labels.0.*greater.*found 0"),
    "a name too long for DICOM": (lambda d: d["segments"][0].update(name="x" * 65), "segments.0.name.*64"),
    "a name with a backslash": (lambda d: d["segments"][0].update(name="a\\b"), "segments.0.name"),
    "half a code": (lambda d: d["segments"][0].update(type=["10200004", "SCT"]), "segments.0.type.2"),
    "a colour beyond a byte": (lambda d: d["segments"][0].update(colour_rgb=[1, 2, 256]), "colour_rgb.2.*found 256"),
    "values changed before a resample that looks at the source again": (
        lambda d: d["stages"][0].update(
            before=[{"step": "crop-nonzero"}, {"step": "clip", "to": [0, 1]}, {"step": "truncate"}, FACES]
        ),
        "only turns and crops before resample with grid 'faces' in stage 'main', found 'clip', 'truncate'",
    ),
    "a structure that no stage writes": (
        lambda d: d["segments"].append(segment(2, "Dark", [2, 5])),
        "labels of segment 'Dark' that some stage writes, 1; found 2, 5",
    ),
    "a structure of a stage that writes nothing": (
        lambda d: d["stages"][0].update(writes="nothing"),
        "segment 'Bright' that some stage writes, none; found 1",
    ),
    "a structure that is given another number": (
        behind(BACK, {"step": "decide"}, {"step": "relabel", "labels": {"1": 7}}),
        "segment 'Bright' that some stage writes, 7; found 1",
    ),
    "a structure beside the values of regions": (
        behind(BACK, {"step": "decide", "rule": "regions", "values": [2, 3]}),
        r"segment 'Bright' that some stage writes, 2\.\.3; found 1",
    ),
    "a structure beyond the sets of regions": (
        lambda d: (behind(BACK, {"step": "decide", "rule": "overlapping"})(d), d["segments"][0].update(labels=[4])),
        r"segment 'Bright' that some stage writes, 1\.\.3; found 4",
    ),
    "a stage that writes what it cannot say": (
        lambda d: d["stages"][0].update(writes={"1": 1, "2": 3}),
        "writes of labels that stage 'main' can say, 1; found 2",
    ),
    "a stage that looks at what cannot be there": (
        crop_to_main(300),
        "labels in step 'crop-to-stage' of stage 'fine' that stage 'main' can say, 1; found 300",
    ),
    "no segments": (lambda d: d.update(segments=[]), "segments.*at least 1"),
}


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_manifest_is_refused_by_file_key_expected_and_found(change: Change, sentence: str) -> None:
    document = toy_manifest()
    change(document)
    with pytest.raises(ModelError, match=sentence) as caught:
        parse_manifest(to_toml(document), "models/toy/manifest.toml")
    assert str(caught.value).startswith("models/toy/manifest.toml: ")


ALLOWED: dict[str, Change] = {
    "turns and crops before the node's own grid": lambda d: d["stages"][0]["before"].__setitem__(
        slice(0, 2), [{"step": "orient", "axes": "RAS"}, {"step": "crop-foreground"}, FACES]
    ),
    "values changed before another grid": lambda d: d["stages"][0]["before"].__setitem__(
        slice(0, 2), [{"step": "truncate"}, {**FACES, "grid": "monai"}]
    ),
    "a label that another stage writes": two_stages({"writes": {"1": 9}}),
    "a stage that looks at what is there": crop_to_main(1),
    "a set of regions": lambda d: (
        behind(BACK, {"step": "decide", "rule": "overlapping"})(d),
        d["segments"][0].update(labels=[1, 3]),
    ),
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_can_be_carried_out_is_taken(change: Change) -> None:
    document = toy_manifest()
    change(document)
    assert parse_manifest(to_toml(document), "manifest.toml").name == "toy"


def test_what_is_not_toml_is_named_with_its_place() -> None:
    with pytest.raises(ModelError, match=r"expected TOML.*line 1"):
        parse_manifest("format = = 1", "manifest.toml")


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 5000 + "]" * 5000], ids=["digits", "depth"])
def test_toml_that_its_reader_gives_up_on_is_refused_like_any_other(text: str) -> None:
    with pytest.raises(ModelError, match=r"manifest.toml: expected TOML, found: "):
        parse_manifest(text, "manifest.toml")
