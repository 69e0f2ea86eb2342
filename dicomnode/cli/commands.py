"""The command `dicomnode`: one function per subcommand; parses and prints, decides nothing.

Exit codes: 0 ok, 1 failed, 2 usage or configuration. Errors are one sentence on standard error.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dicomnode.cli.models import models_app
from dicomnode.cli.printing import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    err,
    out,
    print_json,
    print_order,
    print_report,
    print_table,
    print_version,
    say_if_none,
)
from dicomnode.errors import ConfigError, NodeError
from dicomnode.log import silence_patient_values

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="A DICOM-native PACS node for AI."
)
audit_app = typer.Typer(no_args_is_help=True, help="The audit log.")
app.add_typer(models_app, name="models")
app.add_typer(audit_app, name="audit")


def main() -> None:
    """Run the command line; every error of ours ends as one sentence and its exit code."""
    silence_patient_values()
    try:
        app()
    except ConfigError as error:
        _fail(error, 2)
    except NodeError as error:
        _fail(error, 1)
    except ModuleNotFoundError as error:
        needed = f"this needs the package {error.name!r}, which a host that only listens goes without"
        _fail(ConfigError(f"{needed}; install it with: pip install 'dicomnode[infer]'"), 2)
    except BrokenPipeError:
        sys.exit(1)  # whoever read our output has gone
    except OSError as error:
        _fail(NodeError(f"{error.filename or 'a file'}: {error.strerror}; check the path and its permissions"), 1)


def _fail(error: NodeError, code: int) -> None:
    err.print(f"dicomnode: {error}", style="red", markup=False)
    sys.exit(code)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; node.toml goes into it.")],
) -> None:
    """Make a folder with an annotated node.toml to start from."""
    from dicomnode.node import init_folder

    path = init_folder(folder)
    out.print(f"wrote {path}\nedit it, then: dicomnode serve --config {path}", markup=False)


@app.command()
def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run all roles under one supervisor until stopped."""
    from dicomnode.node import serve as serve_node

    raise typer.Exit(serve_node(config))


@app.command()
def run(
    role: Annotated[str, typer.Argument(metavar="listen|work|deliver", help="Which role to run.")],
    config: ConfigOption = DEFAULT_CONFIG,
    parent: Annotated[int | None, typer.Option(hidden=True, help="End when this process, our parent, ends.")] = None,
) -> None:
    """Run one role in this process until stopped."""
    from dicomnode.node import run_role

    run_role(role, config, parent=parent)


@app.command()
def segment(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files or folders.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the model.")] = "torso",
    folder: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the results go.")] = Path("out"),
    config: Annotated[Path | None, typer.Option("--config", "-c", help="node.toml, for policies and limits.")] = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Segment series from files: SEG, NIfTI, picture and report.json per series, by the node's own code."""
    from dicomnode.offline import segment_paths

    reports = segment_paths(paths, model, folder, config, say=lambda line: err.print(line, markup=False))
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            print_report(report)
    if not reports or any(r["outcome"] in {"refused", "failed"} for r in reports):
        raise typer.Exit(1)


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="DICOM files or folders.")],
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="A peer of node.toml.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Send DICOM files to a peer by C-STORE; every instance's status is looked at."""
    from dicomnode.inquiries import send_files

    statuses = send_files(paths, to, config)
    failed = [s for s in statuses if not s["ok"]]
    if as_json:
        print_json(statuses)
    else:
        for status in failed:
            err.print(f"{status['sop_instance_uid']}: {status['sentence']}", markup=False)
        out.print(f"{len(statuses) - len(failed)} of {len(statuses)} instances accepted by {to}", markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def echo(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A peer of node.toml.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Ask a peer by C-ECHO whether it is there and knows us."""
    from dicomnode.inquiries import echo_peer

    echo_peer(name, config)
    out.print(f"{name} answers", markup=False)


@app.command()
def series(
    config: ConfigOption = DEFAULT_CONFIG,
    study: Annotated[str | None, typer.Option(help="Only of this Study Instance UID.")] = None,
    patient: Annotated[str | None, typer.Option(help="Only of this Patient ID (looked up by its digest).")] = None,
    issuer: Annotated[str, typer.Option(help="Issuer of that Patient ID, if the archive writes one.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List the series that came, when and why each counted as complete, and what routing said."""
    from dicomnode.inquiries import list_series

    rows = list_series(config, study=study, patient_id=patient, issuer=issuer, limit=limit)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            print_version(row)
        say_if_none(rows)


@app.command()
def jobs(
    config: ConfigOption = DEFAULT_CONFIG,
    state: Annotated[str | None, typer.Option(help="waiting, running, delivering, done or parked.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List the orders, their steps, and how far each result has come at each destination."""
    from dicomnode.inquiries import list_jobs

    rows = list_jobs(config, state=state, limit=limit)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            print_order(row)
        say_if_none(rows)


@app.command()
def retry(
    order_id: Annotated[str, typer.Argument(metavar="ID", help="An order or series version id, see `jobs`, `series`.")],
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Start a parked order, delivery or refused series again."""
    from dicomnode.inquiries import retry as retry_order

    out.print(retry_order(order_id, config), markup=False)


@audit_app.command("verify")
def audit_verify(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """Check that no audit record was edited, removed or reordered."""
    from dicomnode.inquiries import verify_audit

    verdict = verify_audit(config)
    if as_json:
        print_json(verdict)
    else:
        for problem in verdict["problems"]:
            err.print(problem, style="red", markup=False)
        state = "intact" if not verdict["problems"] else "NOT INTACT"
        out.print(f"{verdict['records']} audit records, {state}, head {verdict['head']}", markup=False)
    if verdict["problems"]:
        raise typer.Exit(1)


@app.command()
def demo(
    series_folder: Annotated[
        Path | None, typer.Option("--series", metavar="DIR", help="Your own CT series instead of the phantom.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes.")] = Path("demo-output"),
) -> None:
    """Show the whole way: a stand-in archive sends a CT series to a node and gets a checked SEG back."""
    from dicomnode.demo.walkthrough import run_demo

    raise typer.Exit(run_demo(series_folder, folder, lambda line: out.print(line, markup=False)))


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A small series, for a first impression.")] = False,  # noqa: FBT002
    peers: Annotated[bool, typer.Option(help="MONAI's whole chain as well: a minute, some GiB.")] = True,  # noqa: FBT002
    path: Annotated[Path, typer.Option("--out", help="Where the figures go as JSON.")] = Path("bench.json"),
) -> None:
    """Measure each step on a 300 x 512 x 512 series beside plain library calls; prints a table, writes JSON."""
    from dicomnode.demo.bench import run_bench, size_in_words

    measured = run_bench(path, lambda line: err.print(line, markup=False), quick=quick, peers=peers)
    out.print(f"series: {size_in_words(measured['series'])}", markup=False)
    out.print("machine: " + ", ".join(f"{k} {v}" for k, v in measured["machine"].items()), markup=False)
    print_table(measured["rows"], ["step", "wall_s", "cpu_s", "peak_mib", "mb_per_s", "budget", "kept"])
    for row in measured["rows"]:
        if row["note"]:
            out.print(f"{row['step'].strip()}: {row['note']}", markup=False)
    out.print(f"everything in numbers: {path}", markup=False)
