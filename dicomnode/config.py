"""node.toml -> one frozen `Config`. An unknown key, a wrong type or a dangling name refuses to start.

`dicomnode/templates/node.toml` explains every key; this module says which there are and what they may hold.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dicomnode.errors import ConfigError
from dicomnode.imaging import Finding, Policy

AeTitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[\x21-\x5b\x5d-\x7e]+( *[\x21-\x5b\x5d-\x7e]+)*$")
]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Host = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^\S+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0)]
Entry = TypeVar("Entry", "Peer", "Destination")
Condition = str | int | float | bool | dict[str, str | int | float | list[str | int | float]]


RESULT_KINDS = ("seg",)  # as the table of `encoding/kinds.py`, which a host without the encoders cannot load


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NodeTable(_Table):
    """Who this node is on the network and where it keeps its files."""

    ae_title: AeTitle = "DICOMNODE"
    port: Port = 11112
    bind: Host = "127.0.0.1"
    data_dir: Path = Path("data")
    database: Annotated[str, Field(pattern=r"^($|sqlite:///|postgresql)")] = (
        ""  # SQLAlchemy URL; empty: SQLite files in data_dir
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.database or f"sqlite:///{self.data_dir / 'ledger.sqlite'}"

    @property
    def work_database_url(self) -> str:
        """SQLAlchemy URL of the durable engine's tables: a file beside the ledger, or the same PostgreSQL."""
        return self.database or f"sqlite:///{self.data_dir / 'work.sqlite'}"

    @property
    def spool_dir(self) -> Path:
        """Where received instances and results are kept."""
        return self.data_dir / "spool"

    @property
    def audit_dir(self) -> Path:
        """Where the audit log is kept."""
        return self.data_dir / "audit"


class Peer(_Table):
    """Another DICOM application: may send to us, be sent to, be asked."""

    name: Name
    ae_title: AeTitle
    host: Host
    port: Port
    may_send: bool = True
    allowed_hosts: tuple[Host, ...] = ()  # addresses it may call from; empty: `host` only
    query_count: bool = False  # ask it by C-FIND how many instances a series has


class Destination(_Table):
    """Where results go: an archive (C-STORE to a peer) or a folder."""

    name: Name
    kind: Literal["archive", "folder"] = "archive"
    peer: str = ""  # archive: name of the peer
    path: Path | None = None  # folder: where
    commitment: bool = True  # archive: ask for storage commitment
    timeout_s: Seconds = 30.0
    first_retry_s: Annotated[float, Field(ge=0.1)] = 5.0
    last_retry_s: Seconds = 3600.0
    give_up_after_days: Annotated[float, Field(gt=0, le=36500)] = 7.0
    commitment_wait_s: Seconds = 600.0  # asked again when no report came within this time

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.kind == "archive" and not self.peer:
            raise ValueError('an archive destination needs peer = "NAME" of one of [[peers]]')
        if self.kind == "folder" and self.path is None:
            raise ValueError('a folder destination needs path = "..."')
        return self


class Route(_Table):
    """Which series goes through which model, and where the results go."""

    name: Name
    match: Mapping[str, Condition] = {}  # DICOM keyword (or number_of_instances) -> condition
    model: Annotated[str, Field(min_length=1)]
    results: Annotated[tuple[str, ...], Field(min_length=1)] = ("seg",)
    destinations: Annotated[tuple[str, ...], Field(min_length=1)]
    priority: Annotated[int, Field(ge=1, le=1000)] = 100  # lower runs first


class Limits(_Table):
    """Bounds on what peers may do and what a job may take."""

    max_associations: Annotated[int, Field(ge=1)] = 32
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=16 << 20)] = 262144
    max_instance_bytes: Annotated[int, Field(ge=1 << 20)] = 2 << 30
    max_instances_per_association: Annotated[int, Field(ge=1)] = 200_000
    idle_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    association_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    min_free_bytes: Annotated[int, Field(ge=0)] = 2 << 30
    max_voxels: Annotated[int, Field(ge=1)] = 2_000_000_000
    job_deadline_s: Annotated[float, Field(gt=0)] = 1800.0
    threads: Annotated[int, Field(ge=0)] = 0  # inference threads; 0: cores less one, at least one
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Completion(_Table):
    """When a series counts as complete."""

    association_end_s: Seconds | Literal["off"] = 1.0  # rest after the last association that brought it ended
    quiet_period_s: Annotated[float, Field(gt=0)] = 60.0  # rest after the last instance, whatever else
    count_wait_s: Seconds = 600.0  # how long a count larger than what came keeps the series open


class Retention(_Table):
    """How long things stay in the spool."""

    received_days: Annotated[float, Field(gt=0, le=36500)] = 14.0  # instances, from the completion of their series
    parked_days: Annotated[float, Field(gt=0, le=36500)] = (
        90.0  # instances of series with a parked order, from its parking
    )
    results_days: Annotated[float, Field(gt=0, le=36500)] = 30.0  # results that reached their goal everywhere


class Config(_Table):
    """Everything a role needs to know, read once."""

    node: NodeTable = NodeTable()
    peers: tuple[Peer, ...] = ()
    destinations: tuple[Destination, ...] = ()
    routes: tuple[Route, ...] = ()
    limits: Limits = Limits()
    completion: Completion = Completion()
    retention: Retention = Retention()
    geometry: Mapping[Finding, Policy] = {}

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        peers = _names("peers", self.peers)
        destinations = _names("destinations", self.destinations)
        _names("routes", self.routes)
        for index, destination in enumerate(self.destinations):
            if destination.kind == "archive" and destination.peer not in peers:
                raise ValueError(_dangling(f"destinations[{index}].peer", "[[peers]]", peers, destination.peer))
        for index, route in enumerate(self.routes):
            for name in route.destinations:
                if name not in destinations:
                    raise ValueError(_dangling(f"routes[{index}].destinations", "[[destinations]]", destinations, name))
        return self

    def peer(self, name: str) -> Peer:
        """The peer of that name.

        Raises:
            ConfigError: no peer has it.
        """
        return _named("peers", self.peers, name)

    def destination(self, name: str) -> Destination:
        """The destination of that name.

        Raises:
            ConfigError: no destination has it.
        """
        return _named("destinations", self.destinations, name)


def read_config(path: Path) -> Config:
    """Read node.toml; relative paths in it are relative to the file.

    Raises:
        ConfigError: file, key, what was expected and what was found.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); make one with 'dicomnode init DIR'") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        found = f"{error.object[error.start]:#04x} in line {line}"
        raise ConfigError(f"{path}: expected UTF-8 text, found byte {found}; save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: expected TOML, found: {error}") from error
    return parse_config(document, source=str(path), base=path.parent)


def parse_config(document: Mapping[str, object], source: str, base: Path = Path()) -> Config:
    """A parsed TOML document -> Config; relative paths become absolute under `base`.

    Raises:
        ConfigError: one line per mistake; each names `source`, the key, what was expected and what was found.
    """
    try:
        # As JSON, because pydantic's strict mode then takes lists for tuples but no "11112" for a number.
        config = Config.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        sentences = _sentences(document, error.errors())
        raise ConfigError("\n".join(f"{source}: {sentence}" for sentence in sentences)) from error
    node = config.node.model_copy(update={"data_dir": (base / config.node.data_dir).resolve()})
    destinations = tuple(
        d.model_copy(update={"path": (base / d.path).resolve()}) if d.path else d for d in config.destinations
    )
    return config.model_copy(update={"node": node, "destinations": destinations})


def _names(table: str, entries: Sequence[Peer | Destination | Route]) -> list[str]:
    names = [entry.name for entry in entries]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"{table}[{index}].name: expected a name of its own, found {name!r} a second time")
    return names


def _dangling(key: str, table: str, known: Sequence[str], found: str) -> str:
    names = ", ".join(map(repr, known)) or "none is there"
    return f"{key}: expected the name of one of {table} ({names}), found {found!r}{_guess(found, known)}"


def _named(table: str, entries: Sequence[Entry], name: str) -> Entry:
    for entry in entries:
        if entry.name == name:
            return entry
    raise ConfigError(_dangling("name", f"[[{table}]]", [entry.name for entry in entries], name))


def _guess(found: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(found, list(known), n=1)
    return f"; did you mean {str(close[0])!r}?" if close else ""


def _sentences(document: Mapping[str, object], errors: Sequence[ErrorDetails]) -> list[str]:
    """One sentence per key; pydantic reports a key once for each type it might have had."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_key(document, error), []).append(error)
    return [_sentence(key, of_key) for key, of_key in by_key.items()]


def _sentence(key: str, errors: Sequence[ErrorDetails]) -> str:
    first = errors[0]
    if first["type"] == "value_error":  # a sentence of ours
        text = str(first.get("ctx", {}).get("error", first["msg"]))
        return f"{key}: {text}" if key else text
    if first["type"] == "extra_forbidden":
        known = _keys_beside(first["loc"])
        name = str(first["loc"][-1])
        return f"{key}: unknown key; expected one of {', '.join(known)}{_guess(name, known)}"
    if first["loc"][0] == "geometry" and first["loc"][-1] == "[key]":
        name = str(first["loc"][1])
        return f"{key}: unknown finding; expected one of {', '.join(Finding)}{_guess(name, Finding)}"
    expected = _CONDITION if ".match." in key else " or ".join(dict.fromkeys(_expected(e) for e in errors))
    if first["type"] == "missing":
        return f"{key}: expected a value, found nothing"
    found = json.dumps(first["input"], default=str)
    return f"{key}: expected {expected}, found {found if len(found) <= 80 else found[:77] + '...'}"


_CONDITION = 'a text, a number, true or false, or a condition such as { in = ["CT", "MR"] }'

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "model_type": "a table",
    "path_type": "a path in quotes",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "a text that is not empty",
    "string_type": "a text in quotes",
    "tuple_type": "a list",
}


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(str(error["loc"][-1]), "letters, digits, _ and - only")
    if (template := _EXPECTED.get(error["type"])) is None:
        return error["msg"]
    return template.format(**error.get("ctx", {}))


_PATTERNS = {
    "ae_title": "an AE title (1 to 16 printable ASCII characters, no backslash, no space at an end)",
    "bind": "an address or host name without spaces",
    "host": "an address or host name without spaces",
}


def _key(document: Mapping[str, object], error: ErrorDetails) -> str:
    """The place in the file, such as `peers[0].port`; what pydantic adds of its own is left out."""
    key = ""
    here: Any = document
    for part in error["loc"]:
        if isinstance(part, int) and isinstance(here, list) and part < len(here):  # pyright: ignore[reportUnknownArgumentType]
            key, here = f"{key}[{part}]", here[part]
        elif isinstance(here, dict) and (part in here or error["type"] == "missing"):
            name = str(part) if _BARE_KEY.fullmatch(str(part)) else json.dumps(part)
            key, here = f"{key}.{name}" if key else name, here.get(part)
    return key


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # any other stands in quotes, in TOML as in our sentences


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    table: type[BaseModel] = Config
    for part in location[:-1]:
        table = _TABLES.get(str(part), table)
    return list(table.model_fields)


_TABLES: dict[str, type[BaseModel]] = {
    "node": NodeTable,
    "peers": Peer,
    "destinations": Destination,
    "routes": Route,
    "limits": Limits,
    "completion": Completion,
    "retention": Retention,
}
