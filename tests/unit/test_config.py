"""node.toml: what is right loads, what is wrong is named with file, key, what was expected and what was found."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dicomnode.assembly.policies import POLICIES
from dicomnode.config import (
    RESULT_KINDS,
    Completion,
    Config,
    Destination,
    Limits,
    NodeTable,
    Peer,
    Retention,
    Route,
    read_config,
)
from dicomnode.config import parse_config as parse
from dicomnode.encoding import KINDS
from dicomnode.errors import ConfigError
from dicomnode.imaging import Finding, Policy
from dicomnode.routing import build_rules
from dicomnode.routing.conditions import CONDITIONS

REPOSITORY = Path(__file__).parents[2]
TEMPLATE = REPOSITORY / "dicomnode" / "templates" / "node.toml"
PEER = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 4242}


def mistakes_in(text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(tomllib.loads(text), "site.toml")
    return str(refused.value)


def test_the_annotated_configuration_loads_as_it_stands():
    config = read_config(REPOSITORY / "config" / "node.toml")
    assert config.node.ae_title == "DICOMNODE"
    assert config.peer("pacs").port == 4242
    assert config.destination("pacs").commitment
    assert [rule.route.model for rule in build_rules(config.routes)] == ["torso"]


def test_init_and_the_repository_give_out_the_same_configuration():
    assert (REPOSITORY / "config" / "node.toml").read_bytes() == TEMPLATE.read_bytes()


@pytest.mark.parametrize("name", ["config/development.toml", "deploy/config/node.toml"])
def test_every_other_configuration_that_comes_with_the_node_loads(name: str):
    config = read_config(REPOSITORY / name)
    assert build_rules(config.routes)


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("node", NodeTable),
        ("peers", Peer),
        ("destinations", Destination),
        ("routes", Route),
        ("limits", Limits),
        ("completion", Completion),
        ("retention", Retention),
    ],
)
def test_the_annotated_configuration_explains_every_key(table: str, model: type[BaseModel]):
    assert set(model.model_fields) <= keys_explained_in(TEMPLATE.read_text(encoding="utf-8"), table)


def test_a_key_that_nobody_explains_is_noticed():
    assert "port" not in keys_explained_in('[node]\nae_title = "X"\n[limits]\nport = 1\n', "node")


def keys_explained_in(text: str, table: str) -> set[str]:
    """The keys that stand in a table of a document, commented-out examples included."""
    found: set[str] = set()
    current = ""
    for line in (line.removeprefix("# ") for line in text.splitlines()):
        if line.startswith("["):
            current = line.strip("[]").strip()
            found |= {current.partition(".")[2]} if current.startswith(f"{table}.") else set()
        elif current == table and " = " in line:
            found.add(line.partition(" = ")[0].strip())
    return found


def test_the_annotated_configuration_shows_the_defaults():
    shown, default = read_config(TEMPLATE), Config()
    assert (shown.limits, shown.completion, shown.retention) == (default.limits, default.completion, default.retention)
    assert shown.node.model_copy(update={"data_dir": default.node.data_dir}) == default.node
    assert shown.peers == (Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=4242),)
    assert shown.destinations == (Destination(name="pacs", peer="pacs"),)


def test_the_annotated_configuration_names_every_finding_with_its_default():
    assert read_config(TEMPLATE).geometry == {finding: policies[0] for finding, policies in POLICIES.items()}


@pytest.mark.parametrize("finding", Finding)
def test_the_annotated_configuration_says_what_else_a_finding_may_lead_to(finding: Finding):
    line = next(row for row in TEMPLATE.read_text(encoding="utf-8").splitlines() if row.startswith(f"{finding} = "))
    comment = line.partition("#")[2]
    offered = {
        policy for policy in (Policy.REPAIR, Policy.WARN) if f"or {policy}" in comment or f", {policy}" in comment
    }
    assert offered == set(POLICIES[finding]) - {Policy.REFUSE, POLICIES[finding][0]}


@pytest.mark.parametrize("condition", sorted(set(CONDITIONS) - {"equals"}))
def test_the_annotated_configuration_shows_every_condition(condition: str):
    assert (
        f"{condition} = " in TEMPLATE.read_text(encoding="utf-8").partition("[[routes]]")[0].rpartition("# A route")[2]
    )


def test_an_empty_file_is_a_node_that_knows_nobody():
    assert parse({}, "site.toml").peers == ()


def test_relative_paths_are_relative_to_the_file(tmp_path: Path):
    (tmp_path / "node.toml").write_text('[[destinations]]\nname = "out"\nkind = "folder"\npath = "results"\n')
    config = read_config(tmp_path / "node.toml")
    assert config.node.data_dir == tmp_path / "data"
    assert config.destination("out").path == tmp_path / "results"
    assert config.node.database_url == f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}"


def test_an_unknown_key_is_named_with_the_file_and_the_key_that_was_probably_meant():
    sentence = mistakes_in('[[peers]]\nname = "pacs"\naetitle = "PACS"\nhost = "h"\nport = 1\n')
    assert "site.toml: peers[0].aetitle: unknown key; expected one of name, ae_title," in sentence
    assert "did you mean 'ae_title'?" in sentence
    assert "site.toml: peers[0].ae_title: expected a value, found nothing" in sentence


def test_an_unknown_table_is_named_with_the_tables_there_are():
    assert "limit: unknown key; expected one of node, peers, destinations, routes, limits" in mistakes_in("[limit]\n")


def test_an_unknown_finding_is_named_with_the_one_that_was_probably_meant():
    assert mistakes_in('[geometry]\ngantry_tlt = "warn"').endswith("did you mean 'gantry_tilt'?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[node]\nport = "11112"', 'node.port: expected a whole number, found "11112"'),
        ("[node]\nport = true", "node.port: expected a whole number, found true"),
        ("[node]\nport = 11112.5", "node.port: expected a whole number, found 11112.5"),
        ("[node]\nport = 70000", "node.port: expected at most 65535, found 70000"),
        ("[node]\nport = 0", "node.port: expected 1 or more, found 0"),
        ('[node]\nae_title = ""', 'node.ae_title: expected a text that is not empty, found ""'),
        ('[node]\nae_title = "A\\\\B"', "node.ae_title: expected an AE title (1 to 16 printable ASCII characters"),
        ('[node]\nae_title = "ABCDEFGHIJKLMNOPQ"', "node.ae_title: expected at most 16 characters"),
        ('[node]\nbind = "any where"', "node.bind: expected an address or host name without spaces"),
        (
            '[node]\nlog_level = "LOUD"',
            "node.log_level: expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR', found \"LOUD\"",
        ),
        ("node = 3", "node: expected a table, found 3"),
        ("peers = [3]", "peers[0]: expected a table, found 3"),
        ("peers = 3", "peers: expected a list, found 3"),
        ("[limits]\nidle_timeout_s = inf", "limits.idle_timeout_s: expected a finite number"),
        ("[limits]\nidle_timeout_s = 0", "limits.idle_timeout_s: expected more than 0, found 0"),
        ('[completion]\nassociation_end_s = "of"', "completion.association_end_s: expected a number or 'off', found"),
        (
            '[geometry]\ngantry_tilt = "fix"',
            "geometry.gantry_tilt: expected 'refuse', 'repair' or 'warn', found \"fix\"",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_was_expected(text: str, expected: str):
    assert mistakes_in(text).startswith(f"site.toml: {expected}")


def test_each_mistake_has_a_line_of_its_own():
    lines = mistakes_in("[node]\nport = 0\n[limits]\nthreads = -1\n").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["node.port", "limits.threads"]


def test_a_condition_of_a_wrong_kind_is_one_sentence_with_an_example():
    route = 'name = "r"\nmodel = "m"\ndestinations = ["d"]\nmatch = { Modality = ["CT"] }'
    sentence = mistakes_in(f"[[routes]]\n{route}")
    assert sentence.startswith(
        "site.toml: routes[0].match.Modality: expected a text, a number, true or false, or a cond"
    )
    assert len(sentence.splitlines()) == 1


def test_a_destination_of_an_unknown_peer_is_named_with_the_peers_there_are():
    document: Mapping[str, Any] = {"peers": [PEER], "destinations": [{"name": "archive", "peer": "pcas"}]}
    with pytest.raises(ConfigError) as refused:
        parse(document, "site.toml")
    assert "destinations[0].peer: expected the name of one of [[peers]] ('pacs'), found 'pcas'" in str(refused.value)
    assert "did you mean 'pacs'?" in str(refused.value)


def test_a_route_to_an_unknown_destination_is_named():
    route = {"name": "r", "model": "m", "destinations": ["elsewhere"]}
    with pytest.raises(ConfigError, match=r"routes\[0\]\.destinations: .* \(none is there\), found 'elsewhere'"):
        parse({"routes": [route]}, "site.toml")


def test_a_name_given_twice_is_named():
    with pytest.raises(ConfigError, match=r"peers\[1\]\.name: expected a name of its own, found 'pacs' a second time"):
        parse({"peers": [PEER, PEER]}, "site.toml")


def test_an_archive_without_a_peer_and_a_folder_without_a_path_are_named():
    assert "an archive destination needs peer" in mistakes_in('[[destinations]]\nname = "a"')
    assert "a folder destination needs path" in mistakes_in('[[destinations]]\nname = "a"\nkind = "folder"')


def test_a_missing_file_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"node\.toml: cannot be read .* make one with 'dicomnode init DIR'"):
        read_config(tmp_path / "node.toml")


def test_a_file_that_is_not_toml_is_named_with_the_line(tmp_path: Path):
    (tmp_path / "node.toml").write_text("[node]\nport: 11112\n")
    with pytest.raises(ConfigError, match=r"node\.toml: expected TOML, found: .*line 2"):
        read_config(tmp_path / "node.toml")


def test_a_file_that_is_not_utf_8_is_named_with_the_line(tmp_path: Path):
    (tmp_path / "node.toml").write_bytes("[node]\n# Zürich\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"node\.toml: expected UTF-8 text, found byte 0xfc in line 2"):
        read_config(tmp_path / "node.toml")


def test_a_name_that_no_peer_or_destination_has_is_answered_with_those_there_are():
    config = parse({"peers": [PEER]}, "site.toml")
    with pytest.raises(ConfigError, match=r"one of \[\[peers\]\] \('pacs'\), found 'pac'; did you mean 'pacs'\?"):
        config.peer("pac")
    with pytest.raises(ConfigError, match=r"one of \[\[destinations\]\] \(none is there\), found 'pacs'"):
        config.destination("pacs")


toml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Config.model_fields, "nodes"]), toml_values, max_size=3))
def test_every_line_about_a_document_names_the_file(document: dict[str, object]):
    assert all(line.startswith("site.toml: ") for line in complaints(document).splitlines())


def complaints(document: dict[str, object]) -> str:
    try:
        parse(document, "site.toml")
    except ConfigError as refused:
        return str(refused)
    return ""


def test_a_route_without_results_or_destinations_is_refused():
    for missing in ('results = []\ndestinations = ["d"]', "destinations = []"):
        assert "at least 1 item" in mistakes_in(f'[[routes]]\nname = "r"\nmodel = "m"\n{missing}\n')


def test_the_kinds_of_result_are_those_the_encoders_have():
    assert set(RESULT_KINDS) == set(KINDS)
