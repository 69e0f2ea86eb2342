"""node.toml -> one frozen `Config`. An unknown key, a wrong type or a dangling name refuses to start."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dicomnode.errors import ConfigError
from dicomnode.imaging import Finding, Policy

AeTitle = Annotated[
    str, Field(min_length=1, max_length=16, pattern=r"^[\x21-\x5b\x5d-\x7e]+( *[\x21-\x5b\x5d-\x7e]+)*$")
]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0)]
Condition = str | int | float | bool | dict[str, str | int | float | list[str | int | float]]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeTable(_Table):
    """Who this node is on the network and where it keeps its files."""

    ae_title: AeTitle = "DICOMNODE"
    port: Port = 11112
    bind: str = "127.0.0.1"
    data_dir: Path = Path("data")
    database: str = ""  # SQLAlchemy URL; empty: SQLite files in data_dir
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
    host: str
    port: Port
    may_send: bool = True
    allowed_hosts: tuple[str, ...] = ()  # addresses it may call from; empty: `host` only
    query_count: bool = False  # ask it by C-FIND how many instances a series has


class Destination(_Table):
    """Where results go: an archive (C-STORE to a peer) or a folder."""

    name: Name
    kind: Literal["archive", "folder"] = "archive"
    peer: str = ""  # archive: name of the peer
    path: Path | None = None  # folder: where
    commitment: bool = True  # archive: ask for storage commitment
    timeout_s: Seconds = 30.0
    first_retry_s: Seconds = 5.0
    last_retry_s: Seconds = 3600.0
    give_up_after_days: Annotated[float, Field(gt=0)] = 7.0
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
    model: str
    results: tuple[str, ...] = ("seg",)
    destinations: tuple[str, ...]
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

    association_end_s: Seconds | Literal["off"] = 2.0  # rest after the last association that brought it ended
    quiet_period_s: Annotated[float, Field(gt=0)] = 60.0  # rest after the last instance, whatever else
    count_wait_s: Seconds = 600.0  # how long a count larger than what came keeps the series open


class Retention(_Table):
    """How long things stay in the spool."""

    received_days: Annotated[float, Field(gt=0)] = 14.0  # instances of finished series
    results_days: Annotated[float, Field(gt=0)] = 30.0  # results that reached their last rung


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
        for table, names in (
            ("peers", [p.name for p in self.peers]),
            ("destinations", [d.name for d in self.destinations]),
            ("routes", [r.name for r in self.routes]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"[[{table}]]: expected every name once, found {sorted(names)}")
        peers = {p.name for p in self.peers}
        for d in self.destinations:
            if d.kind == "archive" and d.peer not in peers:
                raise ValueError(
                    f"[[destinations]] {d.name}: expected peer to be one of {sorted(peers)}, found {d.peer!r}"
                )
        known = {d.name for d in self.destinations}
        for r in self.routes:
            missing = sorted(set(r.destinations) - known)
            if missing:
                raise ValueError(f"[[routes]] {r.name}: expected destinations among {sorted(known)}, found {missing}")
        return self

    def peer(self, name: str) -> Peer:
        """The peer of that name.

        Raises:
            ConfigError: no peer has it.
        """
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise ConfigError(f"expected one of the peers {sorted(p.name for p in self.peers)}, found {name!r}")

    def destination(self, name: str) -> Destination:
        """The destination of that name.

        Raises:
            ConfigError: no destination has it.
        """
        for destination in self.destinations:
            if destination.name == name:
                return destination
        raise ConfigError(
            f"expected one of the destinations {sorted(d.name for d in self.destinations)}, found {name!r}"
        )


def read_config(path: Path) -> Config:
    """Read node.toml; relative paths in it are relative to the file.

    Raises:
        ConfigError: file, key, what was expected and what was found.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return parse_config(tomllib.loads(text), source=str(path), base=path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); make one with 'dicomnode init DIR'") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#x} at {error.start}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: expected TOML, found: {error}") from error


def parse_config(document: Mapping[str, object], source: str, base: Path = Path()) -> Config:
    """A parsed TOML document -> Config; relative paths become absolute under `base`.

    Raises:
        ConfigError: names `source`, the key, what was expected and what was found.
    """
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(source, e) for e in error.errors())) from error
    node = config.node.model_copy(update={"data_dir": (base / config.node.data_dir).resolve()})
    destinations = tuple(
        d.model_copy(update={"path": (base / d.path).resolve()}) if d.path else d for d in config.destinations
    )
    return config.model_copy(update={"node": node, "destinations": destinations})


def _sentence(source: str, error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]") or "(document)"
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown key {key!r}; expected {_known_keys(error['loc'])}"
    found = repr(error["input"])
    return f"{source}: key {key!r}: {error['msg']}; found {found[:80]}"


def _known_keys(location: tuple[int | str, ...]) -> str:
    table: type[BaseModel] = Config
    for part in location[:-1]:
        if isinstance(part, str) and part in _TABLES:
            table = _TABLES[part]
    return "one of " + ", ".join(table.model_fields)


_TABLES: dict[str, type[BaseModel]] = {
    "node": NodeTable,
    "peers": Peer,
    "destinations": Destination,
    "routes": Route,
    "limits": Limits,
    "completion": Completion,
    "retention": Retention,
}
