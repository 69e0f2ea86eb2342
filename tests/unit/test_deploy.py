"""What deploy/ holds fits together and is as strict as it says; checked as far as it can be without an engine."""

import configparser
import fnmatch
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dicomnode.config import Config, read_config
from dicomnode.demo.series import SeriesIdentity, build_ct_slices, write_series
from dicomnode.imaging import Geometry
from tests.orthanc import Namespace, await_until, namespace_or_skip
from tests.peers import program

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
UNIT = DEPLOY / "systemd" / "dicomnode.service"
Document = dict[str, Any]
Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def compose() -> Document:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def orthanc() -> Document:
    return json.loads((DEPLOY / "orthanc" / "orthanc.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def node() -> Config:
    return read_config(DEPLOY / "config" / "node.toml")


@pytest.fixture(scope="module")
def dockerfile() -> list[Instruction]:
    """The instructions in order, continued lines joined: ("COPY", "constraints.txt ./")."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def arguments(dockerfile: list[Instruction], name: str) -> list[str]:
    return [argument for instruction, argument in dockerfile if instruction == name]


def test_the_image_runs_as_a_user_who_is_not_root(dockerfile: list[Instruction]):
    user = arguments(dockerfile, "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    last_stage = max(i for i, (name, _) in enumerate(dockerfile) if name == "FROM")
    assert any(name == "USER" for name, _ in dockerfile[last_stage:])


def test_the_image_copies_what_is_there_and_what_the_builder_is_sent(dockerfile: list[Instruction]):
    own = [argument.split() for argument in arguments(dockerfile, "COPY") if "--from=" not in argument]
    copied = [source for parts in own for source in parts[:-1]]
    assert {"dicomnode", "pyproject.toml", "constraints.txt", "deploy/config/node.toml"} <= set(copied)
    for source in copied:
        assert (REPOSITORY / source).exists()
        assert is_sent_to_the_builder(source), source


def is_sent_to_the_builder(path: str) -> bool:
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    return any(path == rule or path.startswith(f"{rule}/") or fnmatch.fnmatch(path, rule) for rule in kept)


def test_the_image_starts_the_command_that_the_package_installs(dockerfile: list[Instruction]):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert json.loads(arguments(dockerfile, "ENTRYPOINT")[-1])[0] in project["scripts"]
    assert json.loads(arguments(dockerfile, "CMD")[-1]) == ["serve", "--config", "/etc/dicomnode/node.toml"]


def test_the_image_keeps_its_data_in_the_volume_and_listens_where_its_health_is_asked(
    dockerfile: list[Instruction], node: Config
):
    assert json.loads(arguments(dockerfile, "VOLUME")[-1]) == [str(node.node.data_dir)]
    assert arguments(dockerfile, "EXPOSE") == [str(node.node.port)]
    assert f"'127.0.0.1', {node.node.port}" in arguments(dockerfile, "HEALTHCHECK")[-1]


def test_the_image_installs_with_the_pinned_versions_and_torch_first(dockerfile: list[Instruction]):
    installs = [argument for argument in arguments(dockerfile, "RUN") if "pip install" in argument]
    assert all("-c constraints.txt" in install for install in installs)
    assert "torch" in installs[0]
    assert ".[all]" in installs[-1]


def test_composed_ports_are_open_on_this_machine_only(compose: Document):
    ports = [port for service in compose["services"].values() for port in service["ports"]]
    assert len(ports) >= 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_composed_services_are_pinned_mount_what_is_there_and_watch_their_health(
    compose: Document, dockerfile: list[Instruction]
):
    for service in compose["services"].values():
        assert not service["image"].endswith(":latest")
        assert ":" in service["image"]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file()
    assert "healthcheck" in compose["services"]["orthanc"]
    assert arguments(dockerfile, "HEALTHCHECK")


def test_the_composed_node_has_no_rights_it_does_not_need(compose: Document):
    service = compose["services"]["node"]
    assert (service["read_only"], service["cap_drop"], len(service["tmpfs"])) == (True, ["ALL"], 1)
    assert "no-new-privileges:true" in service["security_opt"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()


def test_the_composed_archive_and_the_node_know_each_other(compose: Document, orthanc: Document, node: Config):
    peer = node.peer("pacs")
    assert (peer.ae_title, peer.port) == (orthanc["DicomAet"], orthanc["DicomPort"])
    assert peer.host in compose["services"]
    modality = orthanc["DicomModalities"]["DICOMNODE"]
    assert (modality["AET"], modality["Port"]) == (node.node.ae_title, node.node.port)
    assert modality["Host"] in compose["services"]
    assert modality["AllowStorageCommitment"]
    assert modality["AllowFind"] or not peer.query_count


def test_the_composed_archive_has_no_password_of_its_own(compose: Document, orthanc: Document):
    assert orthanc["AuthenticationEnabled"]
    assert list(orthanc["RegisteredUsers"].values()) == ["${ORTHANC_PASSWORD}"]
    assert compose["services"]["orthanc"]["environment"]["ORTHANC_PASSWORD"].startswith("${ORTHANC_PASSWORD:?")


def unit() -> Mapping[str, str]:
    parser = configparser.ConfigParser(strict=False, interpolation=None, inline_comment_prefixes=None)
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]  # systemd's names keep their case
    parser.read(UNIT, encoding="utf-8")
    return dict(parser["Service"])


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ("User", "dicomnode"),
        ("Restart", "always"),
        ("RestartPreventExitStatus", "2"),
        ("StateDirectory", "dicomnode"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "true"),
        ("NoNewPrivileges", "true"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("CapabilityBoundingSet", ""),
    ],
)
def test_the_service_is_kept_running_with_few_rights(directive: str, value: str):
    assert unit()[directive] == value


def test_the_service_keeps_its_data_where_it_may_write(node: Config):
    assert node.node.data_dir.name == unit()["StateDirectory"]
    assert str(node.node.data_dir) == unit()["WorkingDirectory"]


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: install systemd to have the unit checked by it")
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path):
    runnable = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"^(User|Group)=.*\n", "", runnable, flags=re.MULTILINE))
    verdict = systemd_analyze("verify", "--man=no", copy)
    assert (verdict.returncode, verdict.stdout + verdict.stderr) == (0, "")


def test_systemd_finds_little_that_the_service_could_reach():
    verdict = systemd_analyze("security", "--offline=true", "--no-pager", UNIT)
    if "unrecognized option" in verdict.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit offline: systemd 250 or newer can")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", verdict.stdout)
    assert exposure, verdict.stderr
    assert float(exposure[1]) <= 2.0


@contextmanager
def archive_as_deployed(namespace: Namespace, folder: Path) -> Generator[Path]:
    """Orthanc with deploy/orthanc, and a receiver in the node's place; gives the folder of what that receives."""
    settings = json.loads((DEPLOY / "orthanc" / "orthanc.json").read_text(encoding="utf-8"))
    storage = {"StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "StableAge": 1}
    settings |= storage | {"LuaScripts": [str(DEPLOY / "orthanc" / "route.lua")]}
    settings["DicomModalities"]["DICOMNODE"]["Host"] = "127.0.0.1"
    (folder / "orthanc.json").write_text(json.dumps(settings))
    received = folder / "received"
    received.mkdir()
    environment = {"ORTHANC_PASSWORD": "secret", "TCP_NODELAY": "1"}
    log = folder / "orthanc.log"
    namespace.popen([program("storescp"), "-od", received, "11112"], env=environment, output=folder / "node.log")
    namespace.popen([program("Orthanc"), folder / "orthanc.json"], env=environment, output=log)
    echo = [program("echoscu"), "-to", "1", "-aec", settings["DicomAet"], "127.0.0.1", "4242"]
    await_until(lambda: namespace.run(echo).returncode == 0, 60.0, lambda: log.read_text(errors="replace")[-2000:])
    yield received


def send_series(namespace: Namespace, folder: Path, calling: str, seed: str, modality: str = "CT") -> set[str]:
    """Store a small series in the archive as `calling`; gives its SOP Instance UIDs."""
    voxels = np.zeros((3, 8, 8), np.int16)
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    identity = SeriesIdentity(seed=seed, modality=modality)
    slices = build_ct_slices(voxels, Geometry(affine, (3, 8, 8), identity.frame_of_reference_uid), identity)
    paths = write_series(slices, folder / seed)
    command = [program("storescu"), "-aet", calling, "-aec", "PACS", "127.0.0.1", "4242", *paths]
    sent = namespace.run(command, env={"TCP_NODELAY": "1"})
    assert sent.returncode == 0, sent.stderr
    return {str(ds.SOPInstanceUID) for ds in slices}


def test_the_archive_as_deployed_sends_a_new_ct_series_to_the_node_and_neither_results_nor_echoes(tmp_path: Path):
    with namespace_or_skip() as namespace, archive_as_deployed(namespace, tmp_path) as received:
        send_series(namespace, tmp_path, "SCANNER", "result", modality="SEG")
        send_series(namespace, tmp_path, "DICOMNODE", "echo")
        scan = send_series(namespace, tmp_path, "SCANNER", "scan")
        await_until(lambda: len(list(received.iterdir())) >= 3, 60.0, lambda: "the series did not reach the node")
        # What became stable before the scan would have been sent before it.
        assert {path.name.partition(".")[2] for path in received.iterdir()} == scan
