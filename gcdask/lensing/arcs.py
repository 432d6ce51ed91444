"""Multiple images that a lens model was made from: read, and traced to see whether it holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from gcdask.errors import InputError
from gcdask.lensing.images import solve
from gcdask.lensing.model import sky_of, sky_position
from gcdask.lensing.parfile import read_lines

if TYPE_CHECKING:
    from gcdask.lensing.lens import Lens

COLUMNS = ["id", "system", "ra", "dec", "a", "b", "theta", "z", "mag"]
"""Columns of `read_images`: deg, arcsec, deg; ``z`` is NaN where the file has 0 (unknown)."""


def read_images(path: Any, *, center: tuple[float, float] | None = None) -> pd.DataFrame:
    """Read Lenstool's catalogue of multiple images (``arcs.dat``, ``obs_arcs.cat``).

    A row is ``id x y a b theta z mag``. A line ``#REFERENCE 0`` (or none) says that x, y are RA,
    Dec in deg; ``#REFERENCE 3 RA DEC`` that they are offsets in arcsec, x to the west.

    Parameters
    ----------
    path : str or path
        The file; anything that fsspec opens.
    center : (float, float), optional
        RA, Dec (deg) of a relative file that does not name its reference; one that it names
        counts, whatever is given here.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`; ``system`` is the id without what follows its last point (or, if it has none,
        without letters at its end): images of one source.

    Raises
    ------
    InputError
        If the file cannot be read, a row is short or not numbers, or a relative file has no
        reference.
    """
    reference, rows = 0, []
    for number, line in enumerate(read_lines(path, "a Lenstool catalogue of images"), 1):
        words = line.split()
        if words and words[0].upper() == "#REFERENCE":
            reference, center = _reference(path, number, words, center)
        elif words and not words[0].startswith("#"):
            rows.append(_row(path, number, words))
    table = pd.DataFrame(rows, columns=COLUMNS)
    if table.empty:
        raise InputError(f"{path} has no images; give rows of id, x, y, a, b, theta, z, mag")
    if reference in (1, 3):
        if center is None:
            raise InputError(f"{path} is relative to a position it does not name; pass center=...")
        table["ra"], table["dec"] = sky_of(table["ra"], table["dec"], sky_position(center))
    table["z"] = table["z"].where(table["z"] > 0)
    table.attrs["units"] = {"ra": "deg", "dec": "deg", "a": "arcsec", "b": "arcsec", "theta": "deg"}
    return table


def image_scatter(lens: Lens, images: pd.DataFrame) -> xr.Dataset:
    """How well the images of each source map back to one place, and are predicted from it.

    Parameters
    ----------
    lens : Lens
    images : pandas.DataFrame
        ``system``, ``ra``, ``dec``, ``z``, as from `read_images`.

    Returns
    -------
    Dataset
        Along ``system`` (those with a redshift behind the lens and two or more images that the
        lens covers): ``n_images``, ``z_source``, ``ra``, ``dec`` of the mean source (deg),
        ``source_rms`` (arcsec: of the source positions about their mean), ``image_rms`` (arcsec:
        of the images about those predicted for the mean source, sought from each image by Newton's
        method) and ``n_lost``, the images for which that search found none; over all images
        ``source_rms_total``, ``image_rms_total``; ``n_skipped``, the images of no system that
        could be used (no redshift, in front of the lens, alone, or off its maps), and ``status``,
        beginning with "unconstrained" if there is no such system.

    Raises
    ------
    InputError
        If a column is missing.
    """
    missing = [c for c in ("system", "ra", "dec", "z") if c not in images.columns]
    if missing:
        raise InputError(f"images have no {', '.join(missing)}; read them with read_images")
    rows = []
    for name, some in images.groupby("system", sort=False):
        z = float(some["z"].median())
        if np.isfinite(z) and z > lens.z_lens:
            row = _system(lens, some["ra"].to_numpy(), some["dec"].to_numpy(), z)
            rows += [{"system": name, "z_source": z, **row}] if row["n_images"] > 1 else []
    keys = ["system", "z_source", "n_images", "ra", "dec", "source_sum", "image_sum", "n_lost"]
    return _scatter(pd.DataFrame(rows, columns=keys), len(images), lens.name)


def _system(lens: Lens, ra: np.ndarray, dec: np.ndarray, z: float) -> dict[str, Any]:
    """Sums of squares of one system."""
    x, y = lens.xy(ra, dec)
    beta = np.stack(lens.xy(*lens.trace(ra, dec, z)))
    known = np.isfinite(beta).all(axis=0)
    x, y, beta = x[known], y[known], beta[:, known]
    if x.size < 2:
        return {"n_images": x.size}
    mean = beta.mean(axis=1)
    there_x, there_y, residual = solve(lens, x, y, mean, z)
    found = residual < 1e-4
    off = np.hypot(there_x - x, there_y - y)[found]
    place = lens.sky(*mean)
    return {
        "n_images": x.size,
        "ra": float(place[0]),
        "dec": float(place[1]),
        "source_sum": float(((beta - mean[:, None]) ** 2).sum()),
        "image_sum": float((off**2).sum()),
        "n_lost": int((~found).sum()),
    }


def _scatter(table: pd.DataFrame, n_given: int, name: str) -> xr.Dataset:
    n, found = table["n_images"], table["n_images"] - table["n_lost"]
    with np.errstate(invalid="ignore", divide="ignore"):
        by_system = {
            "n_images": (n.astype(np.int64), "", "images used"),
            "z_source": (table["z_source"].astype(float), "", "redshift"),
            "ra": (table["ra"].astype(float), "deg", "right ascension of the mean source"),
            "dec": (table["dec"].astype(float), "deg", "declination of the mean source"),
            "source_rms": (_root(table["source_sum"], n), "arcsec", "rms in the source plane"),
            "image_rms": (_root(table["image_sum"], found), "arcsec", "rms in the image plane"),
            "n_lost": (table["n_lost"].astype(np.int64), "", "images that are not predicted"),
        }
        total: dict[str, Any] = {
            f"{k}_rms_total": (
                _root(table[f"{k}_sum"].sum(), count.sum()),
                "arcsec",
                f"rms in the {k} plane over all images",
            )
            for k, count in (("source", n), ("image", found))
        }
    total["n_skipped"] = (n_given - int(n.sum()), "", "images not used")
    status = "" if len(table) else "unconstrained: no system has a redshift and two images"
    total["status"] = (np.array(status, object), "", "empty if sound")
    return xr.Dataset(
        {
            k: (dims, np.asarray(v), {"units": units, "long_name": text})
            for dims, spec in (("system", by_system), ((), total))
            for k, (v, units, text) in spec.items()
        },
        coords={"system": np.array(table["system"], object)},
        attrs={"model": name, "status": status},
    )


def _root(total: Any, count: Any) -> Any:
    return np.sqrt(np.divide(np.asarray(total, float), np.asarray(count, float)))


def _reference(
    path: Any, number: int, words: Sequence[str], center: tuple[float, float] | None
) -> tuple[int, tuple[float, float] | None]:
    try:
        mode = int(words[1]) if len(words) > 1 else 0
        if mode in (1, 3) and len(words) > 3:
            center = (float(words[2]), float(words[3]))
    except ValueError:
        mode = -1
    if mode not in (0, 1, 3):
        raise InputError(
            f"{path}, line {number}: {' '.join(words)!r} is not a reference; write #REFERENCE 0 "
            "(deg) or #REFERENCE 3 RA DEC (arcsec)"
        )
    return mode, center


def _row(path: Any, number: int, words: Sequence[str]) -> list[Any]:
    try:
        numbers = [float(w) for w in words[1:8]]
    except ValueError:
        numbers = []
    if len(numbers) < 6 or not np.isfinite(numbers[:2]).all():
        raise InputError(
            f"{path}, line {number}: {' '.join(words)[:60]!r} is not an image; write id, x, y, a, "
            "b, theta, z, mag"
        )
    name = words[0]
    system = name.rpartition(".")[0] or re.sub(r"[A-Za-z]+$", "", name) or name
    return [name, system, *numbers, *[np.nan] * (7 - len(numbers))]
