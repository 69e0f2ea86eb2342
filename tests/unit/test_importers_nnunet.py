"""What the importer makes of nnU-Net folders, and what it refuses, with file, key, what was expected and found."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dicomnode.errors import ModelError
from dicomnode.importers import Request, import_from
from dicomnode.importers.nnunet import NnunetOptions, import_nnunet
from dicomnode.importers.nnunet_folder import is_nnunet_folder
from dicomnode.models.after import Activate, Back, Decide
from dicomnode.models.before import AddLabels, Clip, CropNonzero, Orient, Resample, Standardise, ZScore
from dicomnode.models.manifest import Licence
from tests.nnunet_folders import checkpoint, unchanged, write_folder

Json = dict[str, Any]


def imported(folder: Path, options: NnunetOptions | None = None):
    return import_nnunet(folder, {}, folder / "labels.toml", options)


def at(content: Json, path: str) -> tuple[Json, str]:
    *parents, last = path.split(".")
    for key in parents:
        content = content[key]
    return content, last


def put(path: str, value: Any) -> Callable[[Json], None]:
    def change(content: Json) -> None:
        table, key = at(content, path)
        table[key] = value

    return change


def drop(path: str) -> Callable[[Json], None]:
    def change(content: Json) -> None:
        table, key = at(content, path)
        del table[key]

    return change


def test_a_folder_becomes_one_stage_with_the_steps_that_nnunet_takes(tmp_path: Path):
    manifest = imported(write_folder(tmp_path / "model")).manifest
    (stage,) = manifest.stages
    assert [type(step) for step in stage.before] == [Orient, CropNonzero, Clip, Standardise, Resample]
    assert [type(step) for step in stage.after] == [Back, Decide]
    assert (stage.windows.patch, stage.windows.style, stage.windows.mirror_axes) == ((8, 8, 8), "nnunet", (0, 1, 2))
    assert manifest.input.modalities == ("CT",)
    assert [(segment.name, segment.labels) for segment in manifest.segments] == [
        ("Spleen", (1,)),
        ("Left kidney", (2,)),
    ]
    assert manifest.origin is not None
    assert sorted(manifest.origin.files) == [
        "model/dataset.json",
        "model/fold_0/checkpoint_final.pth",
        "model/plans.json",
    ]


def test_the_weights_are_kept_once_and_to_the_last_bit(tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    (content,) = imported(folder).files.values()
    saved = torch.load(folder / "fold_0/checkpoint_final.pth", weights_only=True)["network_weights"]
    kept = safetensors.torch.load(content)
    assert sorted(kept) == sorted(name for name in saved if not name.startswith("decoder.encoder."))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in kept.items())


def test_axes_are_those_of_the_stored_array_turned_by_the_plans(tmp_path: Path):
    def turned(content: Json) -> None:
        content["transpose_forward"], content["transpose_backward"] = [2, 0, 1], [1, 2, 0]

    folder = write_folder(tmp_path / "model", turned)
    assert imported(folder).manifest.stages[0].before[0] == Orient(step="orient", axes="LSP")
    options = NnunetOptions(orientation="SAR")
    assert imported(folder, options).manifest.stages[0].before[0] == Orient(step="orient", axes="RSA")


def test_axes_that_the_folder_does_not_tell_are_said_to_the_person_and_in_the_provenance(tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    guessed = imported(folder)
    words = "training arrays taken as SPL (slices towards the head, rows towards the back, columns to the left)"
    assert guessed.notes == (f"{words}; if the files were stored otherwise, import again with --orientation",)
    assert f"{words}, which SimpleITKIO does not tell." in guessed.manifest.provenance
    said = imported(folder, NnunetOptions(orientation="IAR"))
    assert said.notes == ()
    turned = "IAR (slices towards the feet, rows towards the front, columns to the right), as said at the import."
    assert turned in said.manifest.provenance


def test_axes_that_the_reader_gives_every_array_are_no_guess(tmp_path: Path):
    found = imported(write_folder(tmp_path / "model", put("image_reader_writer", "NibabelIOWithReorient")))
    assert found.notes == ()
    assert "taken as SAR" in found.manifest.provenance


def test_what_was_taken_for_granted_is_still_said_behind_the_trial_of_programs(tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    kind, found = import_from(Request(folder, tmp_path / "labels.toml"))
    assert (kind, found.notes) == ("nnunet", imported(folder).notes)
    assert found.notes


@pytest.mark.parametrize(
    ("stated", "name", "must_be_accepted"),
    [
        ("CC-BY-NC-SA 4.0", "CC-BY-NC-SA 4.0", True),
        ("for non-commercial research", "for non-commercial research", True),
        ("CC-BY 4.0", "CC-BY 4.0", False),
        (" ", "Not stated", False),
        (None, "Not stated", False),
    ],
)
def test_the_licence_is_that_of_the_data_set_and_a_restricted_one_has_to_be_accepted(
    stated: str | None, name: str, must_be_accepted: bool, tmp_path: Path
):
    folder = write_folder(tmp_path / "model", change_dataset=put("licence", stated))
    licence = imported(folder).manifest.licence
    assert (licence.name, licence.must_be_accepted) == (name, must_be_accepted)
    other = Licence(name="By agreement")
    assert imported(folder, NnunetOptions(licence=other)).manifest.licence == other


def test_a_patch_of_two_axes_keeps_the_distance_of_slices_and_mirrors_within_them(tmp_path: Path):
    def flat(content: Json) -> None:
        configuration = content["configurations"]["3d_fullres"]
        configuration |= {"patch_size": [8, 8], "spacing": [1.5, 1.5]}
        configuration["architecture"]["arch_kwargs"] |= {
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * 2,
            "strides": [[1, 1], [2, 2]],
        }

    def flat_weights(content: Json) -> None:
        weights = content["network_weights"]
        for name, tensor in weights.items():
            if tensor.ndim == 5:
                weights[name] = tensor[:, :, 0].clone()
        content["inference_allowed_mirroring_axes"] = (0, 1)

    manifest = imported(write_folder(tmp_path / "model", flat, change_fold=flat_weights)).manifest
    (stage,) = manifest.stages
    (resample,) = (step for step in stage.before if isinstance(step, Resample))
    assert resample.spacing_mm == ("keep", 1.5, 1.5)
    assert stage.windows.mirror_axes == (1, 2)
    assert next(iter(manifest.networks.values())).dimensions == 2


def test_regions_are_painted_over_each_other_and_named_by_the_labels_that_they_hold(tmp_path: Path):
    def regions(content: Json) -> None:
        content["labels"] = {"background": 0, "kidney": [1, 2, 3], "lesion": [2, 3], "cyst": 3}
        content["regions_class_order"] = [1, 2, 3]

    manifest = imported(write_folder(tmp_path / "model", change_dataset=regions)).manifest
    assert manifest.stages[0].after[1:] == (
        Activate(step="activate", function="sigmoid"),
        Decide(step="decide", rule="regions", values=(1, 2, 3)),
    )
    assert [segment.labels for segment in manifest.segments] == [(1, 2, 3), (2, 3), (3,)]


def test_a_mask_for_normalisation_is_the_body(tmp_path: Path):
    def masked(content: Json) -> None:
        content["configurations"]["3d_fullres"] |= {
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [True],
        }

    stage = imported(write_folder(tmp_path / "model", masked)).manifest.stages[0]
    assert ZScore(step="z-score", over="body") in stage.before


def test_several_folds_are_several_networks_of_one_stage(tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    (folder / "fold_1").mkdir()
    torch.save(checkpoint(), folder / "fold_1/checkpoint_final.pth")
    manifest = imported(folder).manifest
    assert manifest.stages[0].networks == ("3d_fullres-fold-0", "3d_fullres-fold-1")
    assert len(manifest.digests) == 2
    one = imported(folder, NnunetOptions(folds=("1",))).manifest
    assert one.stages[0].networks == ("3d_fullres-fold-1",)


def cascade(folder: Path) -> Path:
    """Two folders, side by side; the path of the second stage's."""

    def both(content: Json) -> None:
        content["configurations"]["3d_lowres"] = content["configurations"]["3d_fullres"]
        content["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}

    first = folder / "nnUNetTrainer__nnUNetPlans__3d_lowres"
    last = folder / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"
    write_folder(first, both, change_fold=put("init_args.configuration", "3d_lowres"))
    write_folder(last, both, change_fold=lambda fold: fold.update(checkpoint("3d_cascade_fullres", channels=3)))
    return last


def test_a_cascade_is_two_stages_of_which_the_second_sees_the_labels_of_the_first(tmp_path: Path):
    manifest = imported(cascade(tmp_path)).manifest
    first, last = manifest.stages
    assert (first.name, first.writes) == ("3d_lowres", "nothing")
    assert last.before[-1] == AddLabels(step="add-labels", stage="3d_lowres", labels=(1, 2))
    assert manifest.networks[last.networks[0]].in_channels == 3


def test_a_cascade_without_its_first_folder_is_refused_and_the_folder_is_named(tmp_path: Path):
    last = cascade(tmp_path)
    (last.parent / "nnUNetTrainer__nnUNetPlans__3d_lowres").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"previous_stage: .*__3d_lowres; found none; both folders"):
        imported(last)
    assert len(imported(last, NnunetOptions(previous=tmp_path / "elsewhere")).manifest.stages) == 2


C = "configurations.3d_fullres"
A = f"{C}.architecture"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put(f"{A}.network_class_name", "a.b.Primus"), r"network_class_name: expected PlainConvUNet or .*'a.b.Primus'"),
        (put(f"{A}.arch_kwargs.block", "BottleneckD"), r"arch_kwargs.block: expected null"),
        (put(f"{A}.arch_kwargs.gates", 3), r"arch_kwargs.gates: expected no such argument"),
        (put(f"{A}.arch_kwargs.nonlin", "torch.nn.GELU"), r"nonlin: expected LeakyReLU or ReLU, found torch.nn.GELU"),
        (put(f"{A}.arch_kwargs.norm_op", "os.system"), r"norm_op: expected InstanceNorm or BatchNorm .* os.system"),
        (put(f"{A}.arch_kwargs.conv_op", "torch.nn.Conv2d"), r"conv_op: expected Conv3d for a patch of 3 axes"),
        (put(f"{A}.arch_kwargs.n_stages", 10**9), r"n_stages: expected 2 to 16, found 1000000000"),
        (put(f"{A}.arch_kwargs.kernel_sizes", "x"), r"arguments.kernels: "),
        (put(f"{C}.normalization_schemes", ["MyNormalization"]), r"normalization_schemes.0': expected 'CTNorm.*MyNorm"),
        (put(f"{C}.normalization_schemes", ["ZScoreNormalization"] * 2), r"expected one for each of 1 channels .* 2"),
        (put(f"{C}.resampling_fn_data", "no_resampling_hack"), r"resampling_fn_data': expected 'resample_data_or_seg"),
        (put(f"{C}.resampling_fn_data_kwargs.force_separate_z", True), r"force_separate_z': expected "),
        (put(f"{C}.preprocessor_name", "Mine"), r"preprocessor_name': expected 'DefaultPreprocessor'; found 'Mine'"),
        (put(f"{C}.patch_size", [8, 8, 7]), r"patch_size: expected multiples of .* 2 along axis 2; found 7"),
        (put(f"{C}.spacing", [1.0, 1.0]), r"spacing: expected 3 numbers as in patch_size, found 2"),
        (put(f"{C}.spacing", [1.0, 1.0, float("nan")]), r"spacing.2'"),
        (put(f"{C}.inherits_from", "3d_fullres"), r"expected inherits_from to come to an end, found a circle"),
        (put(f"{C}.inherits_from", "missing"), r"expected 'missing' among 3d_fullres; found none"),
        (put("image_reader_writer", "Tiff3DIO"), r"image_reader_writer: expected one of SimpleITKIO.*'Tiff3DIO'"),
        (put("transpose_backward", [1, 2, 0]), r"expected two turns that undo each other, found \[0, 1, 2\]"),
        (put("label_manager", "Mine"), r"label_manager': expected 'LabelManager'; found 'Mine'"),
        (put("foreground_intensity_properties_per_channel", {}), r"expected channel 0, which CTNormalization needs"),
        (drop("configurations"), r"plans.json: key 'configurations' is missing"),
        (lambda content: content.clear(), r"key 'dataset_name' is missing; is this of nnU-Net v2\?"),
    ],
)
def test_plans_that_ask_for_what_is_not_there_are_refused(
    change: Callable[[Json], None], sentence: str, tmp_path: Path
):
    with pytest.raises(ModelError, match=sentence) as raised:
        imported(write_folder(tmp_path / "model", change))
    assert "plans.json" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("labels", {"0": "background", "1": "liver"}), r"labels: expected names with numbers, found nnU-Net v1's"),
        (put("labels", {"liver": 1}), r"labels.background: expected 0, found None"),
        (put("labels", {"background": 0}), r"expected a structure beside the background"),
        (
            put("labels", {"background": 0, "liver": 70000}),
            r"labels.liver: expected labels from 0 to 65534, found 70000",
        ),
        (put("labels.ignore", 9), r"labels.ignore: expected 3, one above the others; found 9"),
        (put("labels.liver", [1, 2]), r"regions_class_order: expected one for each of 3 regions, found none"),
        (put("channel_names", {}), r"channel_names: expected at least one channel"),
        (put("channel_names", {"0": "CT", "1": "CT"}), r"expected one for each of 2 channels of dataset.json, found 1"),
        (put("channel_names", {"0": "ultrasound"}), r"expected CT or MR sequences, found \['ultrasound'\]"),
        (put("labels.liver", 3), r"network_weights.decoder.seg_layers.0.bias: expected shape \[4\].*found shape \[3\]"),
    ],
)
def test_a_data_set_that_contradicts_itself_or_the_rest_is_refused(
    change: Callable[[Json], None], sentence: str, tmp_path: Path
):
    with pytest.raises(ModelError, match=sentence):
        imported(write_folder(tmp_path / "model", change_dataset=change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (drop("trainer_name"), r"checkpoint_final.pth: expected a checkpoint of nnU-Net v2 with network_weights"),
        (put("init_args.configuration", "2d"), r"configurations: expected '2d' among 3d_fullres"),
        (put("network_weights", {}), r"network_weights: expected a table of tensors by name"),
        (put("network_weights", {"a": "b"}), r"network_weights: expected a tensor for 'a', found str"),
        (put("network_weights", {"a": torch.tensor(1.0)}), r"network_weights.a: expected no tensor"),
        (put("network_weights", {"a": torch.tensor(float("nan"))}), r"expected finite weights, found NaN .* 'a'"),
        (put("inference_allowed_mirroring_axes", (0, 5)), r"mirroring_axes: expected each axis once, found \(0, 5\)"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(change: Callable[[Json], None], sentence: str, tmp_path: Path):
    with pytest.raises(ModelError, match=sentence) as raised:
        imported(write_folder(tmp_path / "model", change_fold=change))
    assert "model" in str(raised.value)


def test_weights_of_another_shape_are_refused_with_both_shapes(tmp_path: Path):
    def wider(content: Json) -> None:
        content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [2, 8]

    with pytest.raises(ModelError, match=r"network_weights\.\S+: expected shape \[\d.* found shape \[\d") as raised:
        imported(write_folder(tmp_path / "model", wider))
    assert "import weights and plans of one training" in str(raised.value)


def test_a_fold_that_is_not_there_is_named(tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    with pytest.raises(
        ModelError, match=r"fold_3/checkpoint_final.pth: expected a checkpoint of fold 3.*there is fold_0"
    ):
        imported(folder, NnunetOptions(folds=("3",)))


def test_folds_of_different_trainings_are_refused(tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    (folder / "fold_1").mkdir()
    other = {**checkpoint(), "inference_allowed_mirroring_axes": (0,)}
    torch.save(other, folder / "fold_1/checkpoint_final.pth")
    with pytest.raises(ModelError, match=r"fold_1\S+: mirror_axes: expected \(0, 1, 2\) as in fold_0, found \(0,\)"):
        imported(folder)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
def test_a_file_that_is_missing_is_named(name: str, tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=re.escape(name)):
        imported(folder)


def test_json_that_is_none_is_refused(tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    (folder / "plans.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"plans.json: expected JSON, found"):
        imported(folder)


def test_a_folder_is_recognised_by_its_two_files_also_from_one_above(tmp_path: Path):
    folder = write_folder(tmp_path / "Dataset123/nnUNetTrainer__nnUNetPlans__3d_fullres")
    assert is_nnunet_folder(folder)
    assert is_nnunet_folder(folder.parent)
    assert not is_nnunet_folder(tmp_path)
    assert imported(folder.parent).manifest.name == "Dataset123_Small-3d_fullres"
    write_folder(tmp_path / "Dataset123/nnUNetTrainer__nnUNetPlans__2d")
    with pytest.raises(ModelError, match=r"found several: .*2d, .*3d_fullres; name one of them"):
        imported(folder.parent)


def test_labels_without_a_code_leave_a_mapping_file_to_complete(tmp_path: Path):
    folder = write_folder(tmp_path / "model", change_dataset=put("labels", {"background": 0, "spleen": 1, "gizmo": 2}))
    template = folder / "labels.toml"
    with pytest.raises(ModelError, match=r"found none for 'gizmo'; complete \S+labels.toml"):
        imported(folder)
    assert '["78961009", "SCT", "Spleen"]' in template.read_text()


def test_old_plans_describe_the_same_network(tmp_path: Path):
    def aged(content: Json) -> None:
        configuration = content["configurations"]["3d_fullres"]
        del configuration["architecture"]
        configuration |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 2,
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_kernel_sizes": [[3, 3, 3]] * 2,
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
        }

    old, new = (
        imported(write_folder(tmp_path / name, change)).manifest for name, change in (("a", aged), ("b", unchanged))
    )
    assert old.networks == new.networks


def zipped(folder: Path, inside: str) -> Path:
    path = folder.parent / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{inside}/{file.relative_to(folder)}")
        archive.writestr("../../outside.txt", "never unpacked")
    return path


def test_an_exported_zip_is_the_same_as_its_folder(tmp_path: Path):
    folder = write_folder(tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    path = zipped(folder, "Dataset123_Small/nnUNetTrainer__nnUNetPlans__3d_fullres")
    assert is_nnunet_folder(path)
    found = import_nnunet(path, {}, tmp_path / "labels.toml")
    assert found.manifest == imported(folder).manifest
    assert not (tmp_path.parent / "outside.txt").exists()


def test_a_zip_that_is_cut_off_or_of_something_else_is_refused(tmp_path: Path):
    folder = write_folder(tmp_path / "model")
    path = zipped(folder, "model")
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"export.zip: expected a complete .zip, found"):
        import_nnunet(path, {}, tmp_path / "labels.toml")
    path.write_bytes(content[:5000])
    with pytest.raises(ModelError, match=r"export.zip: expected a folder or .zip with plans.json"):
        import_nnunet(path, {}, tmp_path / "labels.toml")


def test_a_value_that_no_manifest_may_hold_is_refused_with_its_key(tmp_path: Path):
    folder = write_folder(tmp_path / "m", put("configurations.3d_fullres.spacing", [500.0, 1.0, 1.0]))
    with pytest.raises(ModelError, match=r"m: \w+\.spacing_mm\.0.*: Input should be less than .* 100; found '500"):
        import_from(Request(folder, tmp_path / "mapping.toml"))
