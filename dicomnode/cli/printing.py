"""How the command line shows things: tables, blocks, JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="DICOMNODE_CONFIG", help="node.toml of the node.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
DEFAULT_CONFIG = Path("node.toml")


def say(line: str) -> None:
    """A line on standard output, as it is."""
    out.print(line, markup=False)


def print_json(value: object) -> None:
    """A value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_version(row: Mapping[str, Any]) -> None:
    """A series version and what became of it."""
    at, counts = _cell(row["completed_at"]), f"{row['instances']} instances, version {row['number']}"
    print_block(
        f"{row['version_id']}  {row['state']}  {at} UTC  {counts}",
        f"series {row['series_instance_uid']}",
        f"study  {row['study_instance_uid']}",
        row["evidence"],
        row["detail"] or "not routed yet",
    )


def print_order(row: Mapping[str, Any]) -> None:
    """An order and what became of it."""
    print_block(
        f"{row['order_id']}  {row['state']}  route {row['route']}, model {row['model']}",
        f"series {row['series_instance_uid']}",
        *row["deliveries"],
        row["detail"],
    )


def print_block(title: str, *lines: str) -> None:
    """A title with lines under it."""
    out.print("\n    ".join([title, *(line for line in lines if line)]), markup=False)


def say_if_none(rows: Sequence[object]) -> None:
    """Say so when there is nothing to show."""
    if not rows:
        out.print("nothing yet")


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as a table."""
    table = Table(box=None, pad_edge=False)
    for column in columns:  # an id is there to be copied: it is never cut
        table.add_column(column.replace("_", " "), no_wrap=column.endswith("_id"), overflow="fold")
    for row in rows:
        table.add_row(*[_cell(row.get(c)) for c in columns])
    out.print(table)


def _cell(value: object) -> str:
    if hasattr(value, "strftime"):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value if value is not None else "")


def print_report(report: Mapping[str, Any]) -> None:
    """What became of one series on the command line."""
    out.print(f"series {report['series_instance_uid']}: {report['outcome']}", markup=False)
    for verdict in report["verdicts"]:
        out.print(f"  {verdict}", markup=False)
    for name, millilitres in report.get("volumes_ml", {}).items():
        out.print(f"  {name:<24} {millilitres:10.1f} ml", markup=False)
    for path in report.get("files", ()):
        out.print(f"  {path}", markup=False)
