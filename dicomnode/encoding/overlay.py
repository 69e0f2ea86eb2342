"""A picture of a result: three planes with the structures' outlines, their volumes, and what made them.

For people who want to see at a glance whether a segmentation is right; no part of what is sent to an archive.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicomnode.encoding.views import View, three_views
from dicomnode.errors import Unavailable
from dicomnode.imaging import Geometry, ModelIdentity, Segment, Segmentation, Volume

SOFT_TISSUE_HU = (-160.0, 240.0)
COLDEST_NOT_CT = -200.0  # a volume without anything below is no CT in HU
SCALE = 2  # drawn twice as large and reduced, which smooths outlines and letters
WIDTH, MAX_HEIGHT, MARGIN, GAP, BANNER = 1280, 1500, 20, 16, 46  # px of the finished picture
MIN_LEGEND, MAX_LEGEND = 400, 460
FILL, OUTLINE_PX = 0.32, 3  # the outline in drawn px
BACKGROUND, INK, FAINT, AMBER = (13, 16, 21), (232, 236, 240), (138, 148, 160), (255, 190, 60)

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom in drawn px


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are, in drawn px: coronal under axial, sagittal beside coronal, the legend in the free corner."""

    size: tuple[int, int]
    panels: tuple[Box, Box, Box]  # axial, coronal, sagittal
    legend: Box


def write_overlay(path: Path, volume: Volume, segmentation: Segmentation) -> None:
    """Write the picture as PNG.

    Raises:
        Unavailable: it cannot be written now.
    """
    picture = draw_overlay(volume, segmentation)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(temporary, format="PNG")
        temporary.replace(path)
    except OSError as problem:
        raise Unavailable(f"the picture cannot be written: {problem.strerror}; free disk space") from problem
    finally:
        with suppress(OSError):
            temporary.unlink()


def draw_overlay(volume: Volume, segmentation: Segmentation) -> Image.Image:
    """The picture, RGB."""
    views = three_views(volume, segmentation)
    layout = lay_out(views)
    window = _window(volume.voxels)
    picture = Image.new("RGB", layout.size, BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for view, box in zip(views, layout.panels, strict=True):
        picture.paste(_panel(view, segmentation.segments, window, box), box[:2])
        _annotate(draw, view, box)
    _draw_scale_bar(draw, views[0], layout.panels[0])
    _draw_banner(draw, segmentation.model, layout.size[0])
    _draw_legend(draw, volume.geometry, segmentation, layout.legend)
    return picture.reduce(SCALE)


def lay_out(views: tuple[View, View, View]) -> Layout:
    """One scale for all three planes, the largest that fits."""
    (axial_h, left_w), (coronal_h, _), (_, right_w) = (view.size_mm for view in views)
    width_px = (WIDTH - 2 * MARGIN - GAP) * SCALE
    height_px = (MAX_HEIGHT - 2 * MARGIN - GAP - BANNER) * SCALE
    px_per_mm = min(width_px / (left_w + right_w), height_px / (axial_h + coronal_h))
    axial_h, left_w, coronal_h, right_w = (
        max(16, round(mm * px_per_mm)) for mm in (axial_h, left_w, coronal_h, right_w)
    )
    x, y = MARGIN * SCALE, (MARGIN + BANNER) * SCALE
    x2, y2 = x + left_w + GAP * SCALE, y + axial_h + GAP * SCALE
    right = max(x2 + right_w, x2 + MIN_LEGEND * SCALE)
    panels = (
        (x, y, x + left_w, y + axial_h),
        (x, y2, x + left_w, y2 + coronal_h),
        (x2, y2, x2 + right_w, y2 + coronal_h),
    )
    return Layout((right + x, y2 + coronal_h + x), panels, (x2, y, right, y + axial_h))


def _window(voxels: NDArray[Any]) -> tuple[float, float]:
    """Soft tissue for CT; for anything else what lies between its extremes."""
    sample = voxels[:: max(1, voxels.shape[0] // 24), ::8, ::8]
    if sample.min() < COLDEST_NOT_CT:
        return SOFT_TISSUE_HU
    low, high = np.percentile(sample, (1, 99.5))
    return float(low), float(max(high, low + 1))


def _panel(view: View, segments: tuple[Segment, ...], window: tuple[float, float], box: Box) -> Image.Image:
    size = (box[2] - box[0], box[3] - box[1])
    low, high = window
    grey = np.clip((view.voxels.astype(np.float32) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    panel = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    for segment in sorted(segments, key=lambda s: -len(s.labels)):
        if not np.isin(view.labels, segment.labels).any():
            continue
        mask = _smooth_mask(view, segment, size)
        if not _encloses_others(segment, segments):
            _tint(panel, mask.point([round(value * FILL) for value in range(256)]), segment.colour_rgb)
        _tint(panel, _outline(mask), segment.colour_rgb)
    return panel


def _smooth_mask(view: View, segment: Segment, size: tuple[int, int]) -> Image.Image:
    """The segment in this plane at the panel's size, 0 or 255, its staircase rounded off."""
    mask = np.isin(view.labels, segment.labels).astype(np.uint8) * 255
    enlarged = Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)
    return enlarged.point([0] * 128 + [255] * 128)


def _outline(mask: Image.Image) -> Image.Image:
    """The mask's rim: what a step of the outline's width in any of eight directions leads out of."""
    inside = np.pad(np.asarray(mask), OUTLINE_PX)
    rows, columns = mask.height, mask.width
    core = np.asarray(mask).copy()
    for down, across in product((0, OUTLINE_PX, 2 * OUTLINE_PX), repeat=2):
        core &= inside[down : down + rows, across : across + columns]
    return Image.fromarray(np.asarray(mask) - core)


def _encloses_others(segment: Segment, segments: tuple[Segment, ...]) -> bool:
    """Whether another segment is part of this one, as the liver is of the body: then its outline says enough."""
    return any(set(other.labels) < set(segment.labels) for other in segments)


def _tint(panel: Image.Image, mask: Image.Image, colour: Colour) -> None:
    panel.paste(Image.new("RGB", panel.size, colour), (0, 0), mask)


def _annotate(draw: ImageDraw.ImageDraw, view: View, box: Box) -> None:
    left, top, right, bottom = box
    pad = 8 * SCALE
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    draw.rectangle(box, outline=(48, 54, 62), width=SCALE)
    _draw_lines(draw, view, box)
    for place, anchor, letter in (
        ((left + pad, middle_y), "lm", view.letters.left),
        ((right - pad, middle_y), "rm", view.letters.right),
        ((middle_x, top + pad), "ma", view.letters.top),
        ((middle_x, bottom - pad), "md", view.letters.bottom),
    ):
        _write(draw, place, letter, 17, anchor, AMBER)
    _write(draw, (left + pad, top + pad), view.name, 14, "la", INK)


def _draw_lines(draw: ImageDraw.ImageDraw, view: View, box: Box) -> None:
    """Short marks at the edges where the other two planes cut this one."""
    left, top, right, bottom = box
    x, y = round(left + view.lines[1] * (right - left)), round(top + view.lines[0] * (bottom - top))
    mark = 14 * SCALE
    for line in (
        (left, y, left + mark, y),
        (right - mark, y, right, y),
        (x, top, x, top + mark),
        (x, bottom - mark, x, bottom),
    ):
        draw.line(line, fill=FAINT, width=SCALE)


def _draw_scale_bar(draw: ImageDraw.ImageDraw, view: View, box: Box) -> None:
    px_per_mm = (box[2] - box[0]) / view.size_mm[1]
    length_mm = max((mm for mm in (1, 2, 5, 10, 20, 50, 100) if mm * px_per_mm < (box[2] - box[0]) / 3), default=1)
    right, y = box[2] - 10 * SCALE, box[3] - 12 * SCALE
    draw.line((right - round(length_mm * px_per_mm), y, right, y), fill=INK, width=2 * SCALE)
    _write(draw, (right, y - 5 * SCALE), f"{length_mm} mm", 12, "rd", INK)


def _draw_banner(draw: ImageDraw.ImageDraw, model: ModelIdentity, width: int) -> None:
    draw.rectangle((0, 0, width, BANNER * SCALE), fill=AMBER if not model.diagnostic else (70, 110, 150))
    words = ["AI result", f"{model.name} {model.version}", *([] if model.diagnostic else ["not for diagnostic use"])]
    place = (MARGIN * SCALE, BANNER * SCALE // 2)
    draw.text(place, "  -  ".join(words), BACKGROUND, ImageFont.load_default(20 * SCALE), anchor="lm")


def _draw_legend(draw: ImageDraw.ImageDraw, geometry: Geometry, segmentation: Segmentation, box: Box) -> None:
    left, top, right, bottom = box
    right = min(right, left + MAX_LEGEND * SCALE)
    slices, rows, columns = geometry.shape
    slice_mm, row_mm, column_mm = geometry.spacing_mm
    title = segmentation.model.title
    _write(draw, (left, top), title, _fitting_points(title, 22, right - left), "la", INK)
    grid = f"{slices} slices of {rows} x {columns},  {slice_mm:.2f} x {row_mm:.2f} x {column_mm:.2f} mm"
    _write(draw, (left, top + 32 * SCALE), grid, 13, "la", FAINT)
    first = top + 66 * SCALE
    volumes = segmentation.volumes_ml()
    notes = bottom - 58 * SCALE
    step = min(34 * SCALE, (notes - first) // max(1, len(volumes)))
    for index, segment in enumerate(segmentation.segments):
        row = (left, first + index * step, right, first + (index + 1) * step)
        _draw_entry(
            draw, segment, volumes[segment.name], row, filled=not _encloses_others(segment, segmentation.segments)
        )
    lines = (
        "R L A P H F: right, left, front, back, head, feet of the patient",
        "Marks at the edges show where the other two planes lie",
        f"Weights SHA-256 {segmentation.model.weights_sha256[:16]}...",
    )
    for index, line in enumerate(lines):
        _write(draw, (left, notes + index * 20 * SCALE), line, 13, "la", FAINT)


def _fitting_points(text: str, largest: int, width: int) -> int:
    """The largest size, in points, at which a text keeps to a width."""
    sizes = (p for p in range(largest, 9, -1) if ImageFont.load_default(p * SCALE).getlength(text) <= width)
    return next(sizes, 9)


def _draw_entry(draw: ImageDraw.ImageDraw, segment: Segment, volume_ml: float, box: Box, *, filled: bool) -> None:
    left, top, right, bottom = box
    middle, points = (top + bottom) // 2, max(6, min(16, (bottom - top) // SCALE - 4))
    side = points * SCALE * 3 // 8
    found = volume_ml > 0
    swatch = (left, middle - side, left + 4 * side, middle + side)
    colour = segment.colour_rgb if found else FAINT
    draw.rectangle(swatch, fill=colour if found and filled else None, outline=colour, width=OUTLINE_PX)
    ink = INK if found else FAINT
    _write(draw, (left + 5 * side, middle), segment.name, points, "lm", ink)
    _write(draw, (right, middle), _millilitres(volume_ml) if found else "not found", points, "rm", ink)


def _millilitres(volume_ml: float) -> str:
    if volume_ml < 0.1:
        return "< 0.1 ml"
    return f"{volume_ml:,.0f} ml" if volume_ml >= 100 else f"{volume_ml:.1f} ml"


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, points: int, anchor: str, ink: Colour) -> None:
    font = ImageFont.load_default(points * SCALE)
    draw.text(place, text, ink, font, anchor=anchor, stroke_width=SCALE, stroke_fill=BACKGROUND)
