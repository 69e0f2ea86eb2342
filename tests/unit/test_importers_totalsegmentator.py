"""TotalSegmentator's weights as packages: what is computed, that it equals the parts put together, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from dicomnode.errors import ModelError
from dicomnode.imaging import Geometry, Volume
from dicomnode.importers import Request, import_from
from dicomnode.importers.imported import Imported
from dicomnode.importers.nnunet import NnunetOptions, import_nnunet
from dicomnode.importers.totalsegmentator import (
    TotalSegmentatorOptions,
    import_totalsegmentator,
    is_totalsegmentator,
)
from dicomnode.importers.totalsegmentator_tasks import Catalogue, catalogue
from dicomnode.models import ModelPackage
from tests.toy_models import toy_engine, upright_geometry, volume_on
from tests.toy_totalsegmentator import trained_folder, write_task, zipped

Array = NDArray[Any]
Spacing = tuple[float, float, float]  # slice, row, column
SPACING_MM: Spacing = (3.0, 1.1, 1.2)


def options(task: str = "total", **chosen: object) -> TotalSegmentatorOptions:
    return TotalSegmentatorOptions(task=task, **chosen)  # pyright: ignore[reportArgumentType]


def imported(results: Path, wanted: TotalSegmentatorOptions) -> Imported:
    return import_totalsegmentator(results, {}, results / "mapping.toml", wanted)


def package_of(found: Imported, folder: Path) -> ModelPackage:
    """A package as far as the engine looks at it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in found.files.items():
        (folder / name).write_bytes(content)
    return ModelPackage(folder, found.manifest)


def blobs(shape: tuple[int, int, int] = (14, 30, 26), spacing_mm: Spacing = SPACING_MM) -> Volume:
    """Soft structures between -900 and 600 HU in air, without a plane of symmetry."""
    noise = np.random.default_rng(3).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (1.0, 2.5, 2.5))
    voxels = np.clip(smooth / smooth.std() * 400 - 100, -900, 600).astype(np.int16)
    voxels[:2], voxels[:, :4], voxels[:, :, -3:] = -1024, -1024, -1024
    return volume_on(upright_geometry(shape, spacing_mm), voxels)


def to_zyx_of_ras(voxels: Array) -> Array:
    """An axial series `[slice, row, column]` (superior, posterior, left) as nnU-Net reads it from NIfTI in RAS."""
    return voxels[:, ::-1, ::-1]


def zoomed(voxels: Array, old_mm: Spacing, new_mm: float) -> NDArray[np.int32]:
    """As TotalSegmentator's change_spacing: scipy's zoom in FP64, cast to int32."""
    zoom = np.array(old_mm) / new_mm
    return np.asarray(ndimage.zoom(voxels.astype(np.float64), zoom, order=1, mode="nearest")).astype(np.int32)


def labels_at_spacing(dataset: Path, voxels: NDArray[np.int32], spacing_mm: float, tmp: Path, step: float) -> Array:
    """What a part's network alone, as a plain nnU-Net, says of voxels `[z, y, x]` on its own grid."""
    folder = Path(shutil.copytree(trained_folder(dataset), tmp / "copies" / dataset.name))
    plans = folder / "plans.json"  # by its own name it is refused: TotalSegmentator is more than its networks
    plans.write_text(plans.read_text().replace(dataset.name, "Dataset999_alone"))
    alone = NnunetOptions(orientation="SPL", step=step, mirroring=False)  # the axes as they are
    package = package_of(import_nnunet(folder, {}, tmp / "alone.toml", alone), tmp / "alone" / dataset.name)
    geometry = upright_geometry(voxels.shape, (spacing_mm, spacing_mm, spacing_mm))
    return toy_engine().segment(package, volume_on(geometry, voxels.astype(np.int16))).labels


def back_on_source(labels: Array, shape: tuple[int, ...]) -> Array:
    zoom = np.array(shape) / np.array(labels.shape)
    return to_zyx_of_ras(np.asarray(ndimage.zoom(labels, zoom, order=0, mode="nearest")))


def reference(datasets: list[Path], source: Volume, tmp: Path, spacing_mm: float = 1.5, step: float = 0.8) -> Array:
    """Each part by itself, back by the nearest voxel, its labels over those before it."""
    combined = np.zeros(source.voxels.shape, np.uint8)
    voxels, first = zoomed(to_zyx_of_ras(source.voxels), source.geometry.spacing_mm, spacing_mm), 0
    for dataset in datasets:
        found = back_on_source(labels_at_spacing(dataset, voxels, spacing_mm, tmp, step), source.voxels.shape)
        combined[found > 0] = found[found > 0] + first
        first += len(json.loads((trained_folder(dataset) / "dataset.json").read_text())["labels"]) - 1
    return combined


@pytest.fixture(scope="module")
def total(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """The five networks of `total`."""
    results = tmp_path_factory.mktemp("results")
    return results, write_task(results, "total")


def test_the_five_networks_of_total_say_what_each_says_alone_put_together(
    total: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    results, datasets = total
    source = blobs()
    package = package_of(imported(results, options()), tmp_path / "package")
    found = toy_engine().segment(package, source).labels
    expected = reference(datasets, source, tmp_path)
    assert len(np.unique(expected)) > 20  # random weights say much
    np.testing.assert_array_equal(found, expected)


def test_total_is_one_package_with_117_segments_in_the_order_of_totalsegmentator(
    total: tuple[Path, list[Path]],
) -> None:
    manifest = imported(total[0], options()).manifest
    assert len(manifest.segments) == 117
    assert manifest.segments[1].labels == (2,)
    assert manifest.segments[1].type == ("64033007", "SCT", "Kidney")
    assert manifest.segments[1].modifier == ("24028007", "SCT", "Right")
    assert [stage.windows.overlap for stage in manifest.stages] == pytest.approx([0.2] * 5)
    assert all(stage.windows.mirror_axes == () for stage in manifest.stages)
    assert manifest.licence.must_be_accepted is False
    assert set(manifest.digests) == set(imported(total[0], options()).files)
    assert manifest.origin is not None
    assert len(manifest.origin.files) == 15


def test_a_region_of_interest_takes_only_the_networks_that_find_it(
    total: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    results, _ = total
    source = blobs()
    everything = toy_engine().segment(package_of(imported(results, options()), tmp_path / "all"), source).labels
    seen = np.unique(everything)
    wanted = [int(seen[1]), int(seen[2]), int(seen[-1])]  # two organs and a rib, by whatever name
    assert wanted[1] <= 24
    assert wanted[2] >= 92
    names = tuple(catalogue().tasks["total"].classes[label - 1] for label in wanted)
    found = imported(results, options(roi=names))
    assert [stage.name for stage in found.manifest.stages] == ["dataset-291", "dataset-295"]
    assert list(found.manifest.networks) == ["291-fold-0", "295-fold-0"]
    assert [segment.labels for segment in found.manifest.segments] == [(label,) for label in wanted]
    some = toy_engine().segment(package_of(found, tmp_path / "some"), source).labels
    assert set(np.unique(some)) == {0, *wanted}
    for label in wanted:
        assert not (everything[some != label] == label).any()  # nothing of it is lost


def test_a_region_of_interest_needs_only_the_weights_of_its_networks(tmp_path: Path) -> None:
    first = write_task(tmp_path, "total")[0]
    for dataset in tmp_path.iterdir():
        if dataset.name != first.name:
            zipped(dataset).unlink()
    assert len(imported(tmp_path, options(roi=("liver",))).files) == 1
    with pytest.raises(ModelError, match=r"expected Dataset295_\w+, found Dataset291_\w+; fetch https://github"):
        imported(tmp_path, options(roi=("liver", "sternum")))


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((14, 30, 26), SPACING_MM), ((9, 41, 37), (5.0, 0.977, 0.977)), ((21, 20, 23), (1.25, 3.0, 3.9))],
)
def test_the_fast_grade_is_one_network_at_three_millimetres(
    shape: tuple[int, int, int], spacing_mm: Spacing, tmp_path: Path
) -> None:
    datasets = write_task(tmp_path, "total", "fast")
    source = blobs(shape, spacing_mm)
    found = imported(tmp_path, options(grade="fast"))
    assert found.manifest.name == "totalsegmentator-total-fast"
    labels = toy_engine().segment(package_of(found, tmp_path / "package"), source).labels
    np.testing.assert_array_equal(labels, reference(datasets, source, tmp_path, spacing_mm=3.0))


def test_archives_give_the_same_package_as_folders_and_a_home_folder_the_same_as_its_results(tmp_path: Path) -> None:
    results = tmp_path / "home" / "nnunet" / "results"
    (dataset,) = write_task(results, "total", "fastest")
    wanted = options(grade="fastest")
    unpacked = imported(tmp_path / "home", wanted)
    assert unpacked.files == imported(results, wanted).files == imported(dataset, wanted).files
    archive = zipped(dataset)
    assert imported(results, wanted).files == imported(archive, wanted).files == unpacked.files
    assert imported(results, wanted).manifest == unpacked.manifest


def test_a_task_that_crops_runs_the_network_that_finds_the_box_first(tmp_path: Path) -> None:
    write_task(tmp_path, "total", "fastest")
    write_task(tmp_path, "liver_vessels")
    found = imported(tmp_path, options("liver_vessels"))
    first, second = found.manifest.stages
    assert first.writes == "nothing"
    box, cast, *_ = second.before
    assert box.model_dump() == {
        "step": "crop-to-stage",
        "stage": "dataset-298",
        "labels": (5,),
        "margin_mm": 20.0,
        "if_none": "skip",
    }
    assert cast.step == "truncate"
    assert [step.step for step in second.after] == ["back", "decide"]  # on the scanner's own grid
    labels = toy_engine().segment(package_of(found, tmp_path / "package"), blobs()).labels
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_a_box_may_be_found_within_a_box(tmp_path: Path) -> None:
    for name, grade in (("total", "fastest"), ("craniofacial_structures", "default"), ("teeth", "default")):
        write_task(tmp_path, name, grade)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="expected a code for every label"):
        imported(tmp_path, options("teeth"))
    found = imported(tmp_path, options("teeth", roi=("upper_left_canine_fdi23",)))
    assert [stage.name for stage in found.manifest.stages] == ["dataset-298", "dataset-115", "dataset-113"]
    assert [stage.writes for stage in found.manifest.stages] == ["nothing", "nothing", {21: 21}]


def test_the_body_keeps_its_largest_trunk_and_loses_small_limbs_before_labels_go_back(tmp_path: Path) -> None:
    write_task(tmp_path, "body", "fast")
    (stage,) = imported(tmp_path, options("body", grade="fast")).manifest.stages
    assert [step.step for step in stage.after] == ["decide", "largest-components", "minimum-volume", "back"]
    assert stage.windows.overlap == pytest.approx(0.5)


def test_labels_that_only_helped_the_training_are_dropped(tmp_path: Path) -> None:
    write_task(tmp_path, "total", "fastest")
    write_task(tmp_path, "kidney_cysts", helpers=("kidney_left", "kidney_right"))
    found = imported(tmp_path, options("kidney_cysts"))
    assert found.manifest.stages[-1].writes == {1: 1, 2: 2}
    assert len(found.manifest.segments) == 2


@pytest.mark.parametrize(
    ("task", "licence"), [("tissue_types", "TotalSegmentator, on request"), ("brain_aneurysm", "CC BY-NC 4.0")]
)
def test_weights_that_are_not_free_have_a_licence_that_must_be_accepted(
    task: str, licence: str, tmp_path: Path
) -> None:
    write_task(tmp_path, task)
    found = imported(tmp_path, options(task)).manifest.licence
    assert (found.name, found.must_be_accepted) == (licence, True)
    assert found.text


def test_every_task_with_a_licence_on_request_comes_from_the_licence_server() -> None:
    known = catalogue()
    for task in known.tasks.values():
        for grade in task.grades.values():
            releases = {known.datasets[part.dataset].release for part in grade.parts}
            assert ("" in releases) == (task.licence == "on-request")


def test_crops_name_classes_of_tasks_with_one_network() -> None:
    known = catalogue()
    for task in known.tasks.values():
        if task.crop:
            earlier = known.task(task.crop.task)
            assert len(earlier.grade(task.crop.grade).parts) == 1
            assert earlier.labels_of(task.crop.labels)
            assert earlier.licence == "open"


def test_every_data_set_of_the_table_is_used_and_every_used_one_is_there() -> None:
    known = catalogue()
    used = {part.dataset for task in known.tasks.values() for grade in task.grades.values() for part in grade.parts}
    assert used == set(known.datasets)
    assert all(dataset.folder.startswith(f"Dataset{number:03d}_") for number, dataset in known.datasets.items())


def test_a_table_whose_parts_leave_a_class_out_is_not_read() -> None:
    document = catalogue().model_dump()
    document["tasks"]["total"]["grades"]["default"]["parts"][4]["last"] = 116
    with pytest.raises(ValueError, match=r"expected the parts of grade 'default' to find 1\.\.117"):
        Catalogue.model_validate(document)


def test_weights_are_recognised_and_other_folders_are_not(total: tuple[Path, list[Path]], tmp_path: Path) -> None:
    results, datasets = total
    assert is_totalsegmentator(results)
    assert is_totalsegmentator(datasets[0])
    assert not is_totalsegmentator(tmp_path)
    assert not is_totalsegmentator(tmp_path / "nowhere")


def test_weights_that_are_named_by_a_folder_within_or_by_another_name_are_no_plain_nnunet(tmp_path: Path) -> None:
    dataset = write_task(tmp_path, "total", "fast")[0]
    renamed, archived = (Path(shutil.copytree(dataset, tmp_path / "elsewhere" / name)) for name in ("mine", "packed"))
    expected = f"these are TotalSegmentator's weights; name the folder above {dataset.name}, .* and --task"
    for path in (trained_folder(dataset), renamed, trained_folder(renamed), zipped(archived)):
        with pytest.raises(ModelError, match=expected):
            import_from(Request(path, tmp_path / "mapping.toml", orientation="SAR"))


def test_a_missing_network_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    write_task(tmp_path, "body")
    with pytest.raises(ModelError) as error:
        imported(tmp_path, options())
    assert "expected Dataset291_TotalSegmentator_part1_organs_1559subj, found Dataset299_body_1559subj" in str(
        error.value
    )
    assert "v2.0.0-weights/Dataset291_TotalSegmentator_part1_organs_1559subj.zip by hand" in str(error.value)
    with pytest.raises(ModelError, match="ask for a licence at https://backend"):
        imported(tmp_path, options("tissue_types"))


def test_weights_of_version_1_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "nnUNet/3d_fullres/Task251_TotalSegmentator_part1_organs_1139subj").mkdir(parents=True)
    with pytest.raises(ModelError, match="weights of TotalSegmentator 1, which are of nnU-Net v1"):
        imported(tmp_path, options())


def test_a_network_of_another_trainer_is_of_another_version(tmp_path: Path) -> None:
    (dataset,) = write_task(tmp_path, "total", "fast")
    folder = trained_folder(dataset)
    folder.rename(folder.with_name("nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"))
    wanted = r"expected nnUNetTrainer_4000epochs_NoMirroring__\S+, as .* have it, found nnUNetTrainerNoMirroring__"
    with pytest.raises(ModelError, match=wanted):
        imported(tmp_path, options(grade="fast"))


def test_plans_at_another_spacing_than_the_tasks_are_refused(tmp_path: Path) -> None:
    write_task(tmp_path, "total", "fast", spacing=[3.0, 3.0, 3.1])
    with pytest.raises(ModelError, match=r"spacing: expected \[3\.0, 3\.0, 3\.0\] mm, as the task has it"):
        imported(tmp_path, options(grade="fast"))


def test_a_network_with_too_few_labels_is_refused(tmp_path: Path) -> None:
    (dataset,) = write_task(tmp_path, "body")
    catalogued = write_task(tmp_path / "other", "breasts")[0]
    path = trained_folder(dataset)
    for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
        (path / name).write_bytes((trained_folder(catalogued) / name).read_bytes())
    with pytest.raises(ModelError, match="labels: expected 2 beside the background, found 1"):
        imported(tmp_path, options("body"))


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (options("lungs"), "expected a task of TotalSegmentator"),
        (options(roi=("spam",)), "expected classes of the task .* found spam"),
        (options("breasts", grade="fast"), "expected one of the grades default of this task, found 'fast'"),
        (options("heartchambers_highres"), "cannot be imported: what lies more than 10 mm outside"),
        (options("vertebrae_pp"), "cannot be imported"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(
    wanted: TotalSegmentatorOptions, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=problem):
        imported(tmp_path, wanted)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (dataset,) = write_task(tmp_path, "total", "fastest")
    archive = zipped(dataset)
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"\.zip: expected a complete \.zip, found a damaged one"):
        imported(tmp_path, options(grade="fastest"))


def test_a_checkpoint_that_holds_code_is_refused(tmp_path: Path) -> None:
    (dataset,) = write_task(tmp_path, "total", "fastest")
    torch.save({"network_weights": Path}, trained_folder(dataset) / "fold_0/checkpoint_final.pth")
    with pytest.raises(ModelError, match="could run code"):
        imported(tmp_path, options(grade="fastest"))


def test_orientation_of_the_scan_does_not_matter(tmp_path: Path) -> None:
    """The same body, feet first: slices run the other way, so do the columns."""
    write_task(tmp_path, "total", "fast")
    package = package_of(imported(tmp_path, options(grade="fast")), tmp_path / "package")
    source = blobs()
    turned = np.eye(4)
    turned[:3, :3] = source.geometry.affine[:3, :3] * (-1, 1, -1)
    last = [source.geometry.shape[0] - 1, 0, source.geometry.shape[2] - 1]
    turned[:3, 3] = source.geometry.to_patient_mm(np.array([last], np.float64))[0]
    geometry = Geometry(turned, source.geometry.shape, source.geometry.frame_of_reference_uid)
    feet_first = volume_on(geometry, np.ascontiguousarray(source.voxels[::-1, :, ::-1]))
    found = toy_engine().segment(package, feet_first).labels
    np.testing.assert_array_equal(found[::-1, :, ::-1], toy_engine().segment(package, source).labels)
