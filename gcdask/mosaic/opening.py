"""From files to one mosaic: which bands, on which grid, in which unit. No pixel is read."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import zarr

from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import shards, store, units
from gcdask.mosaic.layers import (
    Layer,
    band_name,
    difference,
    open_layer,
    ratio_of,
    same_grid,
    scaled,
)
from gcdask.mosaic.reproject import Reprojected
from gcdask.mosaic.source import Source, address

log = logging.getLogger(__name__)

Paths = str | os.PathLike | Mapping[str, str | os.PathLike]
Names = str | Sequence[str]


@dataclass(frozen=True)
class Sources:
    """What a mosaic is read from; small, picklable, no pixel in it.

    Attributes
    ----------
    sci, err : tuple of Source
        One 2-D array ``(y, x)`` per band, float32 with NaN = no data; ``err`` may be None.
    bands : tuple of str
        Names of the bands.
    grid : Grid
        The grid that all of them are on.
    units : str
        The astropy unit of ``sci`` and ``err``.
    mask : Source or None
        Flag bits (uint16), if the store has them.
    """

    sci: tuple[Source, ...]
    err: tuple[Source, ...] | None
    bands: tuple[str, ...]
    grid: Grid
    units: str
    mask: Source | None = None

    @property
    def row_tiled(self) -> bool:
        """Whether some file is compressed row by row: read it in full-width strips."""
        return any(s.row_tiled for s in (*self.sci, *(self.err or ())))


def open_sources(
    paths: Paths,
    *,
    err: Paths | None = None,
    weight: Paths | None = None,
    unit: str | Mapping[str, str] | None = None,
    align: str = "refuse",
    bands: Names | None = None,
    damaged: str = "refuse",
) -> Sources:
    """Open a mosaic for reading window by window; only headers are read here.

    Parameters
    ----------
    paths : path or {band: path}
        FITS images (plain or tile-compressed; ``"x.fits[SCI]"`` chooses an HDU, otherwise the
        first 2-D image, rather one named SCI), or a zarr store of `ingest`. A single image is
        named after ``bands``, its FILTER keyword or its file.
    err, weight : path or {band: path}, optional
        Error maps; weight maps (a pixel of weight 0, negative or NaN has no data).
    unit : str or {band: str}, optional
        The unit of the pixels, in place of BUNIT; ``""`` for none.
    align : {"refuse", "reproject"}
        What to do with bands on another WCS than the first one: refuse, or interpolate them
        (bilinear; errors too) onto its pixels.
    bands : str or list of str, optional
        The bands to open, in this order.
    damaged : {"refuse", "keep"}
        What to do with a FITS file that is cut off, or a store that lost shards: refuse it; or
        warn, and raise `InputError` when a window of what is missing is read.

    Returns
    -------
    Sources

    Raises
    ------
    InputError
        Files that are missing, not FITS, truncated, gzipped, without 2-D image, WCS or unit;
        bands that do not fit together; unknown bands.
    """
    if align not in ("refuse", "reproject"):
        raise InputError(f"align = {align!r} is unknown; use 'refuse' or 'reproject'")
    if damaged not in ("refuse", "keep"):
        raise InputError(f"damaged = {damaged!r} is unknown; use 'refuse' or 'keep'")
    wanted = [bands] if isinstance(bands, str) else None if bands is None else list(bands)
    if not isinstance(paths, Mapping):
        path = address(paths)
        if store.is_store(path):
            if err is not None or weight is not None:
                raise InputError(
                    f"{path} is a zarr store, which holds its own errors; give err= and weight= "
                    "to gcdask.ingest instead"
                )
            return _from_store(path, unit, wanted, damaged)
        if wanted is not None and len(wanted) > 1:
            raise InputError(f"{path} is one image, but bands = {wanted}; give {{band: path}}")
        name = wanted[0] if wanted else band_name(path)
        paths, wanted = {name: path}, None
    table = {str(band): address(path) for band, path in paths.items()}
    names = _select(tuple(table), wanted, "the mosaic")
    if not names:
        raise InputError("no band is given; give {band: path}")
    for extra, what in ((err, "err"), (weight, "weight")):
        _check_bands(extra, table, what)
    layers = [
        _layer(band, table[band], _of_band(err, band), _of_band(weight, band), unit, damaged)
        for band in names
    ]
    return _assemble(names, layers, align)


def _layer(
    band: str,
    path: str,
    err: str | None,
    weight: str | None,
    unit: str | Mapping[str, str] | None,
    damaged: str,
) -> Layer:
    """One band of a dict, from FITS or from a store."""
    given = unit.get(band) if isinstance(unit, Mapping) else unit
    if not store.is_store(path):
        return open_layer(path, err=err, weight=weight, unit=given, damaged=damaged)
    if err is not None or weight is not None:
        raise InputError(f"{path} is a zarr store: give err and weight to gcdask.ingest")
    whole = _from_store(path, given, [band], damaged)
    errors = whole.err[0] if whole.err else None
    return Layer(whole.sci[0], errors, whole.grid, whole.units, path)


# -- all bands ------------------------------------------------------------------------------------
def _assemble(names: tuple[str, ...], layers: list[Layer], align: str) -> Sources:
    """Bring all bands to the grid and unit of the first."""
    first = layers[0]
    sci: list[Source] = []
    err: list[Source] = []
    for band, layer in zip(names, layers, strict=True):
        ratio = ratio_of(layer.unit, first.unit, layer.grid, first.grid, layer.label, first.label)
        move = not (layer.grid.shape == first.grid.shape and same_grid(first.grid, layer.grid))
        if move and align == "refuse":
            raise InputError(_misfit(band, layer, names[0], first))
        for source, into in ((layer.sci, sci), (layer.err, err)):
            if source is not None:
                source = scaled(source, ratio)
                into.append(Reprojected(source, layer.grid, first.grid) if move else source)
    if err and len(err) < len(sci):
        without = [b for b, layer in zip(names, layers, strict=True) if layer.err is None]
        raise InputError(f"err is missing for bands {without}; give it for all bands or for none")
    out = Sources(tuple(sci), tuple(err) or None, names, first.grid, first.unit)
    if out.row_tiled and out.grid.shape[1] > 16384:
        warnings.warn(
            "a band is compressed row by row: each window costs as much as full rows; "
            "run `gcdask ingest` first",
            stacklevel=3,
        )
    return out


def _misfit(band: str, layer: Layer, reference: str, first: Layer) -> str:
    if same_grid(first.grid, layer.grid):
        return (
            f"band {band} ({layer.label}) has shape {layer.grid.shape}, but {reference} "
            f"{first.grid.shape} with the same WCS; crop or pad it, or give align='reproject' "
            "(--align reproject, or mosaic.align in a configuration)"
        )
    return (
        f"band {band} ({layer.label}) is on another WCS than {reference}: "
        f"{difference(first.grid, layer.grid)}; give align='reproject' (--align reproject, or "
        "mosaic.align in a configuration) or images on one pixel grid"
    )


# -- stores ---------------------------------------------------------------------------------------
def _from_store(
    path: str, unit: str | Mapping[str, str] | None, wanted: list[str] | None, damaged: str
) -> Sources:
    group = store.open_group(path)
    arrays = store.array_names(group)
    if "sci" not in arrays or len(group["sci"].shape) != 3:  # type: ignore[union-attr]
        raise InputError(
            f"{path} holds {arrays}, no mosaic (sci with band, y, x); use open_map for a map, or "
            "gcdask.ingest to make a mosaic"
        )
    there = _store_bands(group, path)
    names = _select(there, wanted, path)
    grid = store.grid_of(group, "sci", path)
    given = unit.get(names[0]) if isinstance(unit, Mapping) else unit
    text = group["sci"].attrs.get("units") if given is None else given
    if text is None:
        raise InputError(f"{path}: sci has no units; give unit=... (--unit), e.g. 'MJy/sr'")
    text = units.canonical(str(text), path) if str(text).strip() else ""

    def layers(name: str) -> tuple[Source, ...] | None:
        if name not in arrays:
            return None
        return tuple(store.source_of(path, group, name, there.index(b), "float32") for b in names)

    for name in ("sci", "err"):
        if wrong := shards.check(path, group, name, keep=damaged == "keep"):
            log.warning("%s; what is there is used", wrong)
    sci = layers("sci")
    assert sci is not None
    mask = store.source_of(path, group, "mask", None, "uint16") if "mask" in arrays else None
    return Sources(sci, layers("err"), names, grid, text, mask)


def _store_bands(group: zarr.Group, path: str) -> tuple[str, ...]:
    count = group["sci"].shape[0]  # type: ignore[union-attr]
    if "band" not in group:
        return tuple(str(i) for i in range(count))
    names = [str(name) for name in np.atleast_1d(np.asarray(group["band"][...]))]  # type: ignore[index]
    if len(set(names)) < count or not all(names):
        raise InputError(
            f"{path}: the names of its {count} bands are {names}; the store is damaged, copy it "
            "again or make it anew"
        )
    return tuple(names)


# -- small things ---------------------------------------------------------------------------------
def _select(there: tuple[str, ...], wanted: list[str] | None, where: str) -> tuple[str, ...]:
    if wanted is None:
        return there
    unknown = [band for band in wanted if band not in there]
    if unknown:
        raise InputError(f"unknown bands {unknown} in {where}; there are {list(there)}")
    return tuple(wanted)


def _check_bands(paths: Paths | None, table: Mapping[str, str], what: str) -> None:
    if isinstance(paths, Mapping):
        if strange := set(map(str, paths)) - set(table):
            raise InputError(f"{what} has bands {sorted(strange)}, the mosaic has {sorted(table)}")
    elif paths is not None and len(table) > 1:
        raise InputError(
            f"{what} = {address(paths)} is one file for {len(table)} bands; give {{band: path}}"
        )


def _of_band(paths: Paths | None, band: str) -> str | None:
    if paths is None:
        return None
    if isinstance(paths, Mapping):
        found = {str(k): v for k, v in paths.items()}.get(band)
        return None if found is None else address(found)
    return address(paths)
