"""Lens models of dPIE potentials and shears, evaluated lazily on any grid.

Conventions (Lenstool's, checked against lenstronomy and the published models' own chi^2):
offsets from the reference are x = -(ra - ra0) cos(dec0) 3600, positive to the *west*, and
y = (dec - dec0) 3600; ``angle_pos`` is counter-clockwise from +x; lengths are in arcsec.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gcdask.errors import InputError
from gcdask.kernels import dpie
from gcdask.kernels.deflection import deflection_infinity, shear_infinity
from gcdask.lensing.lens import Lens, Like
from gcdask.lensing.scale import check_cosmology

COLUMNS = {
    "name": "str",
    "profile": "int64",
    "x_centre": "float64",
    "y_centre": "float64",
    "ellipticity": "float64",
    "angle_pos": "float64",
    "core_radius": "float64",
    "cut_radius": "float64",
    "v_disp": "float64",
    "gamma": "float64",
    "z_lens": "float64",
}
"""Columns of `LenstoolModel.potentials`: arcsec, deg, km/s; NaN does not occur."""

_NEEDED = ("x_centre", "y_centre", "core_radius", "cut_radius", "v_disp")  # of a dPIE
SAME_Z = 1e-4  # potentials closer than this in redshift are in one plane
MIN_CORE = 1e-3  # arcsec; a zero core would make kappa infinite in its centre


@dataclass(frozen=True, eq=False)
class LenstoolModel(Lens):
    """A lens model of dPIE potentials and shears in one plane (parameters, no maps).

    Made by `read_lenstool` or `LenstoolModel.from_potentials`.

    Attributes
    ----------
    center : (float, float)
        RA, Dec (deg) of the reference.
    z_lens : float
        Redshift of the plane.
    potentials : DataFrame
        One row per potential, columns `COLUMNS`.
    h0, om0 : float
        Flat cosmology.
    name : str
        Goes into the attributes of maps.
    set_aside : DataFrame
        Potentials in other planes, which are not part of any sum.
    """

    center: tuple[float, float]
    z_lens: float
    potentials: pd.DataFrame = dataclass_field(repr=False)
    h0: float = 70.0
    om0: float = 0.3
    name: str = "lens"
    set_aside: pd.DataFrame = dataclass_field(default_factory=lambda: frame([]), repr=False)

    # -- making one ---------------------------------------------------------------------------
    @classmethod
    def from_potentials(
        cls,
        potentials: pd.DataFrame | Iterable[Mapping[str, Any]],
        center: tuple[float, float],
        z_lens: float,
        *,
        h0: float = 70.0,
        om0: float = 0.3,
        name: str = "lens",
    ) -> LenstoolModel:
        """Model from a table of potentials.

        Parameters
        ----------
        potentials : DataFrame or iterable of mappings
            Keys as `COLUMNS` (NaN in a DataFrame: not given). ``profile`` defaults to 81,
            ``name`` to the row's number, the ellipticity and angle to 0, ``z_lens`` to that of
            the model.
        center, z_lens, h0, om0, name
            See the class.

        Raises
        ------
        InputError
            If a parameter is missing or impossible, naming the potential.
        """
        if isinstance(potentials, pd.DataFrame):
            # a table of several profiles has NaN where a key does not apply
            records: list[Any] = potentials.to_dict("records")
            given = [{k: v for k, v in r.items() if not pd.isna(v)} for r in records]
        else:
            given = [dict(p) for p in potentials]
        h0, om0 = check_cosmology(h0, om0)
        rows = [complete(p, i, z_lens) for i, p in enumerate(given)]
        for row in rows:
            check(row, f"potential {row['name']}")
        return in_one_plane(cls(sky_position(center), float(z_lens), frame(rows), h0, om0, name))

    # -- what it is ---------------------------------------------------------------------------
    @property
    def names(self) -> list[str]:
        """Names of the potentials, in the order of the sum."""
        return self.potentials["name"].tolist()

    @cached_property
    def table(self) -> np.ndarray:
        """The potentials as `gcdask.kernels.dpie.make_table` lays them out."""
        columns = [c for c in COLUMNS if c not in ("name", "z_lens")]
        return dpie.make_table(*(self.potentials[c].to_numpy() for c in columns))

    # -- positions ----------------------------------------------------------------------------
    def xy(self, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
        """Lenstool's offsets (west, north) in arcsec of RA, Dec in deg."""
        return offsets(ra, dec, self.center)

    def sky(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """RA, Dec (deg) of Lenstool's offsets in arcsec: the inverse of `xy`."""
        return sky_of(x, y, self.center)

    def position(self, name: str) -> tuple[float, float]:
        """RA, Dec (deg) of the centre of the first potential of this name."""
        row = self.potentials.iloc[int(np.argmax(self._chosen([name])))]
        ra, dec = self.sky(row["x_centre"], row["y_centre"])
        return float(ra), float(dec)

    # -- lensing ------------------------------------------------------------------------------
    def deflection_at(self, ra: Any, dec: Any, z_source: float) -> tuple[np.ndarray, np.ndarray]:
        """Deflection (west, north) in arcsec; see `Lens`.

        A shear scales with D_LS/D_S as masses do. The multiple images of the AS1063 model say so:
        their sources scatter by 0.20" then, by 0.56" with the shear left as it is.
        """
        ratio = self.ratio(z_source)
        alpha_x, alpha_y = deflection_infinity(*self.xy(ra, dec), self.table)
        return alpha_x * ratio, alpha_y * ratio

    def jacobian_at(
        self, ra: Any, dec: Any, z_source: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Convergence and shear (gamma1, gamma2), from analytic derivatives; see `Lens`."""
        ratio = self.ratio(z_source)
        x, y = self.xy(ra, dec)
        gamma1, gamma2 = shear_infinity(x, y, self.table)
        gone = nowhere(x, y)
        return self.kappa_at(ra, dec, z_source), gamma1 * ratio + gone, gamma2 * ratio + gone

    def kappa_at(
        self, ra: Any, dec: Any, z_source: float, *, potentials: Iterable[str] | None = None
    ) -> np.ndarray:
        """Convergence at RA, Dec (deg) for sources at ``z_source``; float64, their shape.

        ``potentials`` are the names of those to sum; default all.
        """
        ratio = self.ratio(z_source)
        x, y = np.broadcast_arrays(*self.xy(ra, dec))
        kappa = dpie.kappa_infinity(x, y, self.table[self._chosen(potentials)])
        return kappa * ratio + nowhere(x, y)

    def kappa(
        self, like: Like, z_source: float, *, potentials: Iterable[str] | None = None
    ) -> xr.DataArray:
        """Convergence at the pixel centres of a grid, lazily.

        Parameters
        ----------
        like : DataArray, Dataset or Grid
            The grid, and the chunks (2048 px if it has none).
        z_source : float
            Redshift of the sources; ``inf`` for D_LS/D_S = 1.
        potentials : iterable of str, optional
            Names of the potentials to sum; default all.

        Returns
        -------
        DataArray, dims (y, x), float64
            Dimensionless; attributes ``z_lens``, ``z_source``, ``model``.

        Raises
        ------
        InputError
            If the source is not behind the lens or a name is unknown.
        """
        return super(LenstoolModel, self.only(potentials)).kappa(like, z_source)

    def only(self, potentials: Iterable[str] | None) -> LenstoolModel:
        """Model of some of the potentials (names; None: all), e.g. the cluster without galaxies."""
        if potentials is None:
            return self
        chosen = self.potentials[self._chosen(potentials)].reset_index(drop=True)
        return replace(self, potentials=chosen)

    def _chosen(self, names: Iterable[str] | None) -> np.ndarray:
        if names is None:
            return np.ones(len(self.potentials), bool)
        wanted = [names] if isinstance(names, str) else list(names)
        unknown = [n for n in wanted if n not in set(self.names)]
        if unknown:
            some = ", ".join(self.names[:6])
            raise InputError(f"{self.name} has no potential {unknown[0]!r}; it has {some}, ...")
        return self.potentials["name"].isin(wanted).to_numpy()


def offsets(ra: Any, dec: Any, center: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Lenstool's offsets (west, north) in arcsec of RA, Dec from ``center``, all in deg."""
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    east = (ra - center[0] + 180) % 360 - 180
    return -east * np.cos(np.deg2rad(center[1])) * 3600, (dec - center[1]) * 3600


def sky_of(x: Any, y: Any, center: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """RA, Dec (deg) of Lenstool's offsets (west, north) in arcsec: the inverse of `offsets`."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    ra = center[0] - x / 3600 / np.cos(np.deg2rad(center[1]))
    return ra % 360, center[1] + y / 3600


def nowhere(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """NaN where a position is not finite, else 0: a shear alone is the same everywhere."""
    return np.where(np.isfinite(x) & np.isfinite(y), 0.0, np.nan)


# -- tables of potentials ---------------------------------------------------------------------
def complete(row: dict[str, Any], index: int, z_lens: float) -> dict[str, Any]:
    """Fill in the defaults of a row; `InputError` for what is missing or unknown."""
    unknown = sorted(set(row) - set(COLUMNS))
    name = str(row.get("name", index + 1))
    if unknown:
        raise InputError(f"potential {name}: unknown key {unknown[0]!r}; use {', '.join(COLUMNS)}")
    row = {"profile": dpie.DPIE, "z_lens": z_lens, **row, "name": name}
    needed = ("gamma",) if row["profile"] == dpie.SHEAR else _NEEDED
    missing = [k for k in needed if k not in row]
    if missing:
        raise InputError(f"potential {name} has no {missing[0]}; give it")
    return {k: row.get(k, 0.0) for k in COLUMNS}


def check(row: dict[str, Any], where: str) -> None:
    """Raise `InputError` for a potential that cannot exist; raises a core of zero a little."""
    if row["profile"] not in (dpie.DPIE, dpie.SHEAR):
        raise InputError(f"{where} has profile {row['profile']}; use 81 (dPIE) or 14 (shear)")
    bad = [
        k for k in COLUMNS if k != "name" and not (isinstance(row[k], Real) and np.isfinite(row[k]))
    ]
    if bad:
        raise InputError(f"{where} has {bad[0]} = {row[bad[0]]}; give a finite number")
    if row["profile"] == dpie.SHEAR:
        return
    if row["v_disp"] < 0:
        raise InputError(f"{where} has v_disp {row['v_disp']:g}; give km/s of 0 or more")
    if not 0 <= row["ellipticity"] < 1:
        raise InputError(f"{where} has ellipticity {row['ellipticity']:g}; give 0 <= e < 1")
    if not 0 <= row["core_radius"] < row["cut_radius"]:
        raise InputError(
            f"{where} has core_radius {row['core_radius']:g} and cut_radius "
            f"{row['cut_radius']:g}; give 0 <= core < cut"
        )
    if row["core_radius"] == 0:
        warnings.warn(f"{where} has no core; {MIN_CORE:g} arcsec is used", stacklevel=5)
        row["core_radius"] = MIN_CORE


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Table of complete rows with the dtypes of `COLUMNS`."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def sky_position(center: tuple[float, float]) -> tuple[float, float]:
    """RA, Dec in deg as floats, RA in [0, 360); `InputError` if it is not a position."""
    try:
        ra, dec = (float(v) for v in center)
    except (TypeError, ValueError):
        raise InputError(f"center = {center!r} is not RA, Dec in degrees; give both") from None
    if not (np.isfinite(ra) and -90 < dec < 90):
        raise InputError(f"center = ({ra:g}, {dec:g}) is not RA, Dec in degrees; give both")
    return ra % 360, dec


def in_one_plane(model: LenstoolModel) -> LenstoolModel:
    """Set aside the potentials of other planes than the model's own, with a warning.

    The plane is ``z_lens``, or if that is NaN the one with the most mass (v_disp^2 cut_radius).
    """
    table, z_lens = model.potentials, model.z_lens
    if table.empty:
        raise InputError("a lens model needs at least one potential; none is given")
    if np.isnan(z_lens):
        mass = table["v_disp"] ** 2 * table["cut_radius"]
        z_lens = float(str(mass.groupby(table["z_lens"]).sum().idxmax()))
    here = (table["z_lens"] - z_lens).abs() <= SAME_Z
    if not here.all():
        away = table[~here]
        some = [f"{n} (z = {z:g})" for n, z in zip(away["name"], away["z_lens"], strict=True)]
        others = ", ".join(some[:5] + ["..."] * (len(some) > 5))
        warnings.warn(
            f"{model.name}: {int((~here).sum())} of {len(table)} potentials are not at z_lens = "
            f"{z_lens:g} and are set aside: {others}",
            stacklevel=4,
        )
    if not here.any():
        raise InputError(f"{model.name} has no potential at z_lens = {z_lens:g}")
    return replace(
        model,
        z_lens=z_lens,
        potentials=table[here].reset_index(drop=True),
        set_aside=table[~here].reset_index(drop=True),
    )
