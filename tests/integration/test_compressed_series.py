"""One series in the encodings that archives use, sent by dcmtk: the volume is the same to the last voxel."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from dicomnode.assembly.gate import inspect
from dicomnode.assembly.volume import assemble
from dicomnode.imaging import Instance, Series, Volume
from tests.listening import Node, listening, listening_config
from tests.peers import program
from tests.site import torso_series

# encoding -> (storescu's option that proposes it, the transfer syntax that must arrive)
ENCODINGS = {
    "uncompressed": ("-xe", "1.2.840.10008.1.2.1"),
    "JPEG-LS": ("-xt", "1.2.840.10008.1.2.4.80"),
    "JPEG lossless": ("-xs", "1.2.840.10008.1.2.4.70"),
    "JPEG 2000": ("-xv", "1.2.840.10008.1.2.4.90"),
    "RLE": ("-xr", "1.2.840.10008.1.2.5"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return torso_series(tmp_path_factory.mktemp("original"), spacing_mm=(24.0, 4.0, 3.0))


def encoded(paths: Sequence[Path], encoding: str, folder: Path) -> list[Path]:
    folder.mkdir()
    made = [folder / path.name for path in paths]
    for source, target in zip(paths, made, strict=True):
        match encoding:
            case "JPEG-LS":
                _run("dcmcjpls", source, target)
            case "JPEG lossless":
                _run("dcmcjpeg", "+e1", source, target)
            case "RLE":
                _run("dcmcrle", source, target)
            case "JPEG 2000":  # dcmtk has no encoder for it
                ds = dcmread(source)
                frame = encode_array(np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns))
                ds.PixelData = encapsulate([frame])
                ds["PixelData"].VR = "OB"
                ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
                ds.save_as(target)
            case _:
                target.write_bytes(source.read_bytes())
    return made


def received(node: Node) -> Volume:
    instances = [
        Instance(
            i.sop_instance_uid,
            i.sop_class_uid,
            i.series_instance_uid,
            i.study_instance_uid,
            i.transfer_syntax_uid,
            node.spool.root / i.path,
            i.sha256,
            i.size_bytes,
        )
        for i in node.told.received
    ]
    return assemble(inspect(Series(instances[0].series_instance_uid, tuple(instances))))


def _run(name: str, *arguments: str | Path) -> None:
    command = [program(name), *map(str, arguments)]
    # Debian's dcmtk leaves Nagle's algorithm on: without this each instance costs 40 ms.
    done = subprocess.run(command, env=os.environ | {"TCP_NODELAY": "1"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_series_sent_by_dcmtk_is_the_same_volume_in_every_encoding(
    encoding: str, originals: list[Path], tmp_path: Path
):
    option, syntax = ENCODINGS[encoding]
    files = encoded(originals, encoding, tmp_path / "encoded")
    expected = np.stack([dcmread(path).pixel_array for path in originals]).astype(np.int32) - 1024
    with listening(listening_config(tmp_path / "node")) as node:
        _run("storescu", "-aet", "SENDER", "-aec", "NODE", option, "127.0.0.1", str(node.port), *files)
        node.wait_for_end()
        assert {i.transfer_syntax_uid for i in node.told.received} == {syntax}
        volume = received(node)
    assert np.array_equal(volume.voxels, expected)
    assert volume.geometry.spacing_mm == pytest.approx((24.0, 4.0, 3.0))


def test_deflated_is_never_accepted(originals: list[Path], tmp_path: Path):
    with listening(listening_config(tmp_path / "node")) as node:
        command = [program("storescu"), "-aet", "SENDER", "-aec", "NODE", "-xd", "127.0.0.1", str(node.port)]
        subprocess.run([*command, str(originals[0])], capture_output=True, timeout=60, check=False)
        node.wait_for_end()
        assert all(i.transfer_syntax_uid != "1.2.840.10008.1.2.1.99" for i in node.told.received)
