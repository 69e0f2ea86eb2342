"""The ledger's tables. Times are UTC; paths are relative to the spool."""

from datetime import UTC, datetime

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

metadata = MetaData()


class UtcTime(TypeDecorator[datetime]):
    """A point in time that comes back aware on every database (SQLite forgets time zones)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  SQLAlchemy's signature
        """Aware UTC -> what the database stores."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  SQLAlchemy's signature
        """What the database stores -> aware UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


instances = Table(
    "instances",
    metadata,
    Column("path", String(255), primary_key=True),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("received_at", UtcTime, nullable=False),
    Column("calling_ae_title", String(16), nullable=False),
    Column("purged_at", UtcTime),  # when its file left the spool
    Column("version", Integer),  # of the series that first contains it; NULL while the series is open
    Index("instances_by_series", "series_instance_uid"),
    Index("instances_open", "version", "series_instance_uid"),
)

series_versions = Table(
    "series_versions",
    metadata,
    Column("version_id", String(32), primary_key=True),
    Column("series_instance_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("content", String(64), nullable=False),
    Column("instances", Integer, nullable=False),
    Column("completed_at", UtcTime, nullable=False),
    Column("last_seen_at", UtcTime, nullable=False),  # completed, or come again after a purge
    Column("evidence", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Column("patient_key", String(64), nullable=False, default=""),  # SHA-256, see routing
    Column("purged_at", UtcTime),
    Index("versions_by_series", "series_instance_uid", "number", unique=True),
    Index("versions_by_study", "study_instance_uid"),
    Index("versions_by_patient", "patient_key"),
    Index("versions_by_state", "state"),
)

orders = Table(
    "orders",
    metadata,
    Column("order_id", String(32), primary_key=True),
    Column("version_id", String(32), ForeignKey("series_versions.version_id"), nullable=False),
    Column("route", String(64), nullable=False),
    Column("model", String(64), nullable=False),
    Column("results", Text, nullable=False),  # JSON list of result kinds
    Column("destinations", Text, nullable=False),  # JSON list of names
    Column("priority", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Column("attempt", Integer, nullable=False, default=1),
    Column("starts", Integer, nullable=False, default=0),  # of the current step that did not end
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Index("orders_by_version", "version_id"),
    Index("orders_by_state", "state"),
)

results = Table(
    "results",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("order_id", String(32), ForeignKey("orders.order_id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("path", String(255), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("purged_at", UtcTime),
    Index("results_by_order", "order_id"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("sop_instance_uid", String(64), ForeignKey("results.sop_instance_uid"), primary_key=True),
    Column("destination", String(64), primary_key=True),
    Column("rung", Integer, nullable=False),
    Column("goal", Integer, nullable=False),
    Column("failures", Integer, nullable=False, default=0),  # in a row
    Column("last_failed_at", UtcTime),
    Column("round", Integer, nullable=False, default=1),  # how often `retry` started it again
    Column("since", UtcTime, nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Column("parked", Boolean, nullable=False, default=False),
)

rungs = Table(
    "rungs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("rung", Integer, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Index("rungs_by_delivery", "sop_instance_uid", "destination"),
)

commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", String(64), primary_key=True),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("asked_at", UtcTime, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reported_at", UtcTime),
    Column("failure_reason", Integer),  # PS3.3 C.14.1.1
    Column("detail", Text, nullable=False, default=""),
    Index("commitments_by_delivery", "sop_instance_uid", "destination"),
)

steps = Table(
    "steps",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("order_id", String(32), nullable=False),
    Column("name", String(32), nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("detail", Text, nullable=False, default=""),  # JSON
    Index("steps_by_order", "order_id"),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("size", Integer, primary_key=True),
    Column("hash", String(64), nullable=False),
    Column("at", UtcTime, nullable=False),
)
