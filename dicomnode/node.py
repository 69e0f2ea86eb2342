"""The composition root: a Config becomes roles. The only file that knows every owner."""

import fcntl
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from dicomnode import __version__
from dicomnode.audit import AuditEvent, AuditLog, AuditRecord
from dicomnode.config import RESULT_KINDS, Config, read_config
from dicomnode.errors import ConfigError, ModelError, Unavailable
from dicomnode.ledger import Ledger
from dicomnode.log import Log, log_to_stderr
from dicomnode.models.store import SHIPPED_PACKAGES, ModelStore
from dicomnode.pipeline import Capabilities, Pipeline
from dicomnode.routing import build_rules
from dicomnode.steps.recorder import Recorder, now
from dicomnode.supervisor import ROLES, Supervisor, die_with_parent
from dicomnode.work import Queue, WorkClient, launch, prepare
from dicomnode.work import stop as stop_work

log = Log("node")

TEMPLATE = Path(__file__).parent / "templates" / "node.toml"
WORK_NICENESS = 5  # a sender waits for the listener; nobody waits for a window of the network
FINISH_S = 20  # what running steps get to finish when a role is stopped; the rest is taken up at the next start


def init_folder(folder: Path) -> Path:
    """Make a folder with the annotated node.toml; returns the file's path.

    Raises:
        ConfigError: there is a node.toml already, or the folder cannot be made.
    """
    path = folder / "node.toml"
    if path.exists():
        raise ConfigError(f"expected no node.toml in {folder}, found one; edit it or choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TEMPLATE, path)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error
    return path


def checked_config(path: Path) -> Config:
    """Read node.toml and everything in it that only an owner understands: rules, policies, models.

    Raises:
        ConfigError: file, key, what was expected and what was found.
    """
    from dicomnode.assembly.policies import check_policies

    config = read_config(path)
    build_rules(config.routes)
    check_policies(config.geometry)
    names = model_store(config).names()
    for route in config.routes:
        unknown = sorted(set(route.results) - set(RESULT_KINDS))
        if unknown:
            expected = f"expected kinds of result among {', '.join(RESULT_KINDS)}, found {', '.join(unknown)}"
            raise ConfigError(f"{path}: key 'routes.{route.name}.results': {expected}")
        if route.model not in names:
            expected = f"expected one of the models {sorted(names)}, found {route.model!r}"
            raise ConfigError(f"{path}: key 'routes.{route.name}.model': {expected}")
        if (images := _images_of(route.model, config)) != 1:
            expected = f"expected a model of one image, as the engine runs so far, found one of {images} images"
            raise ConfigError(f"{path}: key 'routes.{route.name}.model': {expected}")
    return config


def _images_of(model: str, config: Config) -> int:
    """How many images a model takes; 1 where its manifest cannot be used, which its results and `models list` say."""
    try:
        return model_store(config).package(model).manifest.input.images
    except ModelError:
        return 1


def model_store(config: Config) -> ModelStore:
    """The models of the site, and those that are shipped."""
    return ModelStore((site_models(config), SHIPPED_PACKAGES))


def site_models(config: Config) -> Path:
    """The folder of the site's own models, one folder each."""
    return config.node.data_dir / "models"


def serve(config_path: Path) -> int:
    """Run all roles under one supervisor until stopped; the exit code."""
    config = checked_config(config_path)
    log_to_stderr(config.node.log_level, "serve")
    with _only_one(config, "serve"):
        return Supervisor(config_path).run()


def run_role(role: str, config_path: Path, *, parent: int | None = None) -> None:
    """Run one role until SIGTERM or SIGINT.

    Raises:
        ConfigError: the configuration, or another process of the same role on the same data.
        Unavailable: database or spool cannot be used.
    """
    if role not in ROLES:
        raise ConfigError(f"expected a role among {', '.join(ROLES)}, found {role!r}")
    stop = _stop_on_signals()
    if parent is not None:
        die_with_parent(parent)
    config = checked_config(config_path)
    log_to_stderr(config.node.log_level, role)
    with _only_one(config, role), _opened(config, role) as recorder:
        _ROLES[role](config, recorder, stop)


def open_ledger(config: Config) -> Ledger:
    """The ledger, with its tables there."""
    ledger = Ledger(config.node.database_url, config.node.spool_dir)
    ledger.prepare()
    return ledger


@contextmanager
def _opened(config: Config, role: str) -> Generator[Recorder]:
    """What every role has: ledger, audit log, the engine's tables; start and stop are on record."""
    prepare(config.node.work_database_url, config.node.data_dir)
    ledger = open_ledger(config)
    recorder = Recorder(role, ledger, AuditLog(config.node.audit_dir))
    detail = f"dicomnode {__version__}, process {os.getpid()}"
    recorder.audited(AuditRecord(at=now(), event=AuditEvent.NODE_STARTED, role=role, detail=detail))
    log.info("role ready", ae_title=config.node.ae_title)
    try:
        yield recorder
    finally:
        recorder.audited(AuditRecord(at=now(), event=AuditEvent.NODE_STOPPED, role=role, detail=detail))
        ledger.close()


def _listen(config: Config, recorder: Recorder, stop: threading.Event) -> None:
    from dicomnode.listening import Listening
    from dicomnode.receive import Spool

    work = WorkClient(config.node.work_database_url)
    spool = Spool(config.node.spool_dir, config.limits.min_free_bytes)
    Listening(config, recorder.ledger, recorder, work, spool).run(stop)
    work.close()


def _work(config: Config, recorder: Recorder, stop: threading.Event) -> None:
    from dicomnode.assembly.prepared import PreparedBounds, PreparedSlices
    from dicomnode.assembly.resample import resample
    from dicomnode.inference import Engine
    from dicomnode.models.writing import settle
    from dicomnode.segmenting import Segmenter
    from dicomnode.steps.ordering import Ordering
    from dicomnode.steps.preparing import Preparing
    from dicomnode.steps.segmenting import Segmenting

    os.nice(WORK_NICENESS)
    settle(site_models(config))
    ordering = Ordering(build_rules(config.routes), recorder.ledger, recorder)
    segmenter = Segmenter(Engine(resample, config.limits.device, config.limits.threads), model_store(config))
    bounds = PreparedBounds(min_free_bytes=2 * config.limits.min_free_bytes)
    prepared = PreparedSlices(config.node.spool_dir / "prepared", bounds)
    segmenting = Segmenting(config, recorder.ledger, recorder, segmenter, prepared=prepared)
    able = Capabilities(
        route=ordering.route,
        refuse=ordering.refuse,
        assemble=segmenting.assemble,
        infer=segmenting.infer,
        encode=segmenting.encode,
        check=segmenting.check,
        ship=segmenting.ship,
        tidy=segmenting.tidy,
        postpone=segmenting.postpone,
        park=segmenting.park,
    )
    with Preparing(recorder.ledger.received, prepared, recorder.clock).going_on():
        _serve_queues(config, "work", able, [Queue.ROUTE, Queue.SEGMENT], stop)


def _deliver(config: Config, recorder: Recorder, stop: threading.Event) -> None:
    from dicomnode.steps.delivering import Delivering

    delivering = Delivering(config, recorder.ledger, recorder, config.node.spool_dir)
    able = Capabilities(deliver=delivering.deliver)
    _serve_queues(config, "deliver", able, [Queue.DELIVER], stop)


def _serve_queues(config: Config, role: str, able: Capabilities, queues: list[Queue], stop: threading.Event) -> None:
    Pipeline(able)
    launch(config.node.work_database_url, f"{_node_id(config)}/{role}", queues)
    stop.wait()
    stop_work(FINISH_S)


def _node_id(config: Config) -> str:
    """Under this id a started role takes up what a killed one left: it belongs to the data, not to the host's name."""
    path = config.node.data_dir / "run" / "node-id"
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(secrets.token_hex(8), encoding="ascii")
        with suppress(FileExistsError):  # another role was faster
            os.link(fresh, path)
        fresh.unlink()
    return path.read_text(encoding="ascii").strip()


_ROLES: dict[str, Callable[[Config, Recorder, threading.Event], None]] = {
    "listen": _listen,
    "work": _work,
    "deliver": _deliver,
}


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@contextmanager
def _only_one(config: Config, name: str) -> Generator[None]:
    """Two processes of one role on the same data would both take up the same unfinished work."""
    folder = config.node.data_dir / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{name}.lock").open("w")
    except OSError as error:
        raise Unavailable(f"node.data_dir: {folder} cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(f"expected no other '{name}' on {config.node.data_dir}, found one running") from error
        yield
