"""`dicomnode models ...`: the models this node can run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dicomnode.cli.printing import DEFAULT_CONFIG, ConfigOption, JsonOption, print_json, print_table, say

models_app = typer.Typer(no_args_is_help=True, help="The models this node can run.")

NameArgument = Annotated[str, typer.Argument(help="Name of the model.")]
PathArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="A package, a MONAI bundle, an nnU-Net or TotalSegmentator folder, a .ts or .onnx file."
    ),
]
MappingOption = Annotated[
    Path | None, typer.Option("--mapping", help="Codes of labels that our table lacks; a template is written.")
]
OrientationOption = Annotated[
    str | None, typer.Option("--orientation", help="nnU-Net: axes of the training arrays, e.g. SPL.")
]
FastOption = Annotated[bool, typer.Option("--fast", help="TotalSegmentator: one network on 3 mm voxels.")]
KeepOption = Annotated[
    bool, typer.Option("--keep", help="Keep it as golden case; half precision is used where the labels agree.")
]


@models_app.command("list")
def models_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the models, their versions, and whether each is intact and may run."""
    from dicomnode.inquiries import list_models

    rows = list_models(config)
    if as_json:
        print_json(rows)
    else:
        print_table(rows, ["name", "version", "title", "segments", "state"])


@models_app.command("show")
def models_show(
    name: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show a model's licence, then its card or manifest."""
    from dicomnode.inquiries import show_model

    shown = show_model(name, config)
    if as_json:
        print_json(shown["manifest"])
    else:
        _print_licence(name, shown["manifest"]["licence"], shown["accepted"])
        say(shown["card"] or json.dumps(shown["manifest"], indent=2, default=str))


@models_app.command("import")
def models_import(
    path: PathArgument,
    name: Annotated[str, typer.Option("--name", help="Its name here; by default what it is called there.")] = "",
    mapping: MappingOption = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="Of a .ts or .onnx file.")] = None,
    task: Annotated[str, typer.Option("--task", help="TotalSegmentator: which task.")] = "",
    roi: Annotated[str, typer.Option("--roi", help="TotalSegmentator: only these classes, with commas.")] = "",
    fast: FastOption = False,  # noqa: FBT002
    folds: Annotated[str, typer.Option("--folds", help="nnU-Net: which folds, with commas; by default all.")] = "",
    orientation: OrientationOption = None,
    modality: Annotated[str | None, typer.Option("--modality", help="nnU-Net: CT or MR.")] = None,
    prompts: Annotated[str, typer.Option("--prompts", help="VISTA3D: class numbers, with commas.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a model of that name.")] = False,  # noqa: FBT002
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Make a model package of what other tools trained, and add it to this node."""
    from dicomnode.collection import import_model
    from dicomnode.importers import Request

    request = Request(
        path=path,
        template=Path(f"{path.resolve().name}-mapping.toml"),
        name=name,
        mapping=mapping,
        manifest=manifest,
        orientation=orientation,
        modality=modality,
        folds=_listed(folds),
        prompts=tuple(_number(prompt) for prompt in _listed(prompts)),
        task=task,
        grade="fast" if fast else "default",
        roi=_listed(roi),
    )
    row = import_model(request, config, replaces=replace)
    if as_json:
        print_json(row)
    else:
        _print_imported(row)


@models_app.command("verify")
def models_verify(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """Check a model's digests and run its golden cases."""
    from dicomnode.collection import verify_model

    rows = verify_model(name, config)
    if as_json:
        print_json(rows)
    else:
        print_table(rows, ["check", "of", "ok", "found"])
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@models_app.command("test")
def models_test(
    name: NameArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="SERIES...", help="DICOM files or folders of one series.")],
    keep: KeepOption = False,  # noqa: FBT002
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Run a model on a series: seconds, volumes, and how half precision compares with FP32."""
    from dicomnode.collection import try_model

    row = try_model(name, paths, config, keep=keep)
    if as_json:
        print_json(row)
    else:
        _print_trial(row)


@models_app.command("remove")
def models_remove(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Take a model out of this node."""
    from dicomnode.collection import remove_model

    say(f"removed {remove_model(name, config)['removed']}")


@models_app.command("accept-licence")
def models_accept_licence(
    name: NameArgument,
    by: Annotated[str, typer.Option("--by", help="Who accepts it; by default the user of this computer.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Accept the licence of a model, so that it may run."""
    from dicomnode.collection import accept

    row = accept(name, by, config)
    _print_licence(name, row["licence"], row["by"])


def _print_licence(name: str, licence: Mapping[str, Any], accepted_by: str | None) -> None:
    say(f"licence of {name}: {licence['name']}")
    if licence["text"]:
        say(licence["text"])
    if licence["must_be_accepted"]:
        asked = f"to be accepted before it runs: dicomnode models accept-licence {name} --by NAME"
        say(f"accepted by {accepted_by}" if accepted_by else asked)
    say("")


def _print_imported(row: Mapping[str, Any]) -> None:
    name, segments = row["name"], len(row["segments"])
    say(f"model {name} {row['version']} imported from a {row['kind']}, {segments} segments")
    say(f"  in {row['folder']}, weights {row['sha256'][:16]}, licence: {row['licence']}")
    for note in row["notes"]:
        say(f"  {note}")
    if row["licence_must_be_accepted"]:
        say(f"  before it runs: dicomnode models accept-licence {name} --by NAME")
    if row["can_be_halved"]:
        say(f"  it runs in FP32 until it was tried in half: dicomnode models test {name} SERIES --keep")


def _print_trial(row: Mapping[str, Any]) -> None:
    for precision, seconds in row["seconds"].items():
        dice = row["agreement_with_fp32"].get(precision)
        worst = row["worst_label"].get(precision)
        said = "" if dice is None else f", Dice {dice:.5f} of the labels in FP32"
        said += f", at worst {worst['dice']:.5f} ({worst['structure']})" if worst else ""
        say(f"{precision}: {seconds:.1f} s{said}")
    for segment, millilitres in row["volumes_ml"].items():
        say(f"  {segment:<32} {millilitres:10.1f} ml")
    if "kept" in row:
        verified = ", ".join(row["kept"]["verified"]) or "none: the model stays in FP32"
        say(f"golden case kept; verified half precision: {verified}")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"expected whole numbers with commas, found {text!r}") from None
