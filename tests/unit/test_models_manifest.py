"""What a manifest may say, and how a wrong one is answered."""

from collections.abc import Callable

import pytest

from dicomnode.errors import ModelError
from dicomnode.imaging import CodedConcept
from dicomnode.models import parse_manifest
from tests.toy_models import Document, segment, to_toml, toy_manifest

Change = Callable[[Document], object]


def test_a_complete_manifest_is_read() -> None:
    document = toy_manifest()
    document["postprocessing"] = {"largest_components": {"1": 2}}
    document["segments"][0]["modifier"] = ["7771000", "SCT", "Left"]
    manifest = parse_manifest(to_toml(document), "manifest.toml")
    assert manifest.input.spacing_mm == (3.0, 2.0, 1.5)
    assert manifest.postprocessing.largest_components == {1: 2}
    assert manifest.segments[0].segment.modifier == CodedConcept("7771000", "SCT", "Left")
    assert manifest.inference.window == "whole"


WRONG: dict[str, tuple[Change, str]] = {
    "unknown key": (lambda d: d.update(licens="x"), "unknown key 'licens'; expected one of format, name"),
    "unknown key of a table": (lambda d: d["input"].update(spacing=1), "unknown key 'input.spacing'.*spacing_mm"),
    "unknown key of a channel": (
        lambda d: d["input"]["channels"][0].update(mean=1),
        "unknown key 'input.channels.0.mean'; expected one of clip, to",
    ),
    "missing key": (lambda d: d.pop("licence"), "key 'licence' is missing"),
    "format of the future": (lambda d: d.update(format=2), "key 'format'.*1.*found 2"),
    "wrong type": (lambda d: d.update(diagnostic="perhaps"), "key 'diagnostic'.*found 'perhaps'"),
    "digest that is none": (lambda d: d.update(weights_sha256="abc"), "key 'weights_sha256'.*found 'abc'"),
    "orientation": (lambda d: d["input"].update(orientation="SPP"), "key 'input'.*orientation.*found 'SPP'"),
    "spacing of zero": (
        lambda d: d["input"].update(spacing_mm=[0, 1, 1]),
        "input.spacing_mm.0.*greater than 0.*found 0",
    ),
    "clip upside down": (
        lambda d: d["input"]["channels"][0].update(clip=[9, 1]),
        r"input.channels.0.*found \(9.0, 1.0\)",
    ),
    "no channels": (lambda d: d["input"].update(channels=[]), "input.channels.*at least 1"),
    "channels other than the network's": (
        lambda d: d["network"]["arguments"].update(in_channels=2),
        "in_channels = 2, found 1",
    ),
    "a flat network": (lambda d: d["network"]["arguments"].update(spatial_dims=2), "spatial_dims = 3, found 2"),
    "no out_channels": (lambda d: d["network"]["arguments"].pop("out_channels"), "out_channels.*found None"),
    "window off the multiple": (lambda d: d["inference"].update(window=[24, 24, 20]), r"multiples.*8.*\(24, 24, 20\)"),
    "overlap of one": (lambda d: d["inference"].update(overlap=1), "inference.overlap.*less than 1"),
    "activation": (lambda d: d["inference"].update(activation="argmax"), "inference.activation.*softmax"),
    "label the network lacks": (
        lambda d: d["segments"][0].update(labels=[1, 2]),
        r"labels 1..1.*2 out_channels, found \[2\]",
    ),
    "component of a label it lacks": (
        lambda d: d.update(postprocessing={"largest_components": {"7": 1}}),
        r"labels 1..1.*found \[7\]",
    ),
    "background as a segment": (lambda d: d["segments"][0].update(labels=[0]), "segments.0.labels.0.*found 0"),
    "numbers with a gap": (lambda d: d["segments"].append(segment(3, "B", [1])), r"numbered 1..n.*found \[1, 3\]"),
    "one name twice": (lambda d: d["segments"].append(segment(2, "Bright", [1])), "distinct names"),
    "a name of 65 characters": (lambda d: d["segments"][0].update(name="x" * 65), "segments.0.name.*64"),
    "a name with a backslash": (lambda d: d["segments"][0].update(name="a\\b"), "segments.0.name"),
    "half a code": (lambda d: d["segments"][0].update(type=["10200004", "SCT"]), "segments.0.type.2"),
    "a colour beyond a byte": (lambda d: d["segments"][0].update(colour_rgb=[1, 2, 256]), "colour_rgb.2.*found 256"),
    "no segments": (lambda d: d.update(segments=[]), "segments.*at least 1"),
}


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_manifest_is_refused_by_file_key_expected_and_found(change: Change, sentence: str) -> None:
    document = toy_manifest()
    change(document)
    with pytest.raises(ModelError, match=sentence) as caught:
        parse_manifest(to_toml(document), "models/toy/manifest.toml")
    assert str(caught.value).startswith("models/toy/manifest.toml: ")


def test_what_is_not_toml_is_named_with_its_place() -> None:
    with pytest.raises(ModelError, match=r"expected TOML.*line 1"):
        parse_manifest("format = = 1", "manifest.toml")
