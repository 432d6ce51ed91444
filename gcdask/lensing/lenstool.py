"""Lens models in Lenstool's parameter files, read and written."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from gcdask.errors import InputError
from gcdask.grid import Field
from gcdask.kernels import dpie
from gcdask.lensing.model import (
    LenstoolModel,
    check,
    complete,
    frame,
    in_one_plane,
    sky_position,
)
from gcdask.lensing.parfile import Section, format_sections, read_sections, write_text
from gcdask.lensing.scale import check_cosmology


def read_lenstool(path: Any, *, center: tuple[float, float] | None = None) -> LenstoolModel:
    """Read a Lenstool parameter file (``best.par``), with French or English keywords.

    Parameters
    ----------
    path : str or path
        The file; anything that fsspec opens.
    center : (float, float), optional
        RA, Dec (deg) of the reference, for a file without one (``reference`` 0 or 2).

    Returns
    -------
    LenstoolModel
        Profiles 81 (dPIE) and 14 (external shear, kappa 0). Potentials at another redshift than
        the most massive ones are set aside with a warning.

    Raises
    ------
    InputError
        If the file cannot be read, is cut off or not text; has another profile, no reference or
        no potential; or a potential lacks a parameter or has an impossible one.
    """
    sections = read_sections(path)
    h0, om0 = _cosmology(path, sections)
    center = _reference(path, sections) if center is None else sky_position(center)
    lenses = [s for s in sections if s.kind.startswith("potent")]
    if not lenses:
        raise InputError(f"{path} has no potential; give the best.par that Lenstool writes")
    rows = [_read_potential(s, i, h0, om0) for i, s in enumerate(lenses)]
    name = PurePath(str(path)).stem
    return in_one_plane(LenstoolModel(center, np.nan, frame(rows), h0, om0, name))


def write_lenstool(model: LenstoolModel, path: Any) -> None:
    """Write a model as a parameter file, which Lenstool and `read_lenstool` read.

    The keywords are the French ones, which every version of Lenstool knows; numbers are read
    back exactly. Potentials that were set aside are written too.
    """
    ra, dec = model.center
    rows = pd.concat([model.potentials, model.set_aside]).to_dict("records")
    sections: list[tuple[str, list[tuple[str, Any]]]] = [
        ("runmode", [("reference", f"3 {ra!r} {dec!r}")]),
        ("grille", [("nombre", 128), ("polaire", 0), ("nlentille", len(rows))]),
    ]
    for row in rows:
        title = "potentiel " + re.sub(r"[\s#]+", "_", row["name"])
        keys = ["profil", "x_centre", "y_centre", "ellipticite", "angle_pos"]
        keys += ["core_radius", "cut_radius", "v_disp", "z_lens"]
        if row["profile"] == dpie.SHEAR:
            keys = ["profil", "gamma", "angle_pos", "z_lens"]
        french = {"profil": "profile", "ellipticite": "ellipticity"}
        sections.append((title, [(k, row[french.get(k, k)]) for k in keys]))
    cosmology = [("model", 1), ("H0", model.h0), ("omegaM", model.om0), ("omegaX", 1 - model.om0)]
    sections += [("cosmologie", cosmology), ("champ", [("dmax", 100.0)])]
    write_text(path, format_sections(sections))


def _reference(path: Any, sections: list[Section]) -> tuple[float, float]:
    """RA, Dec (deg) of the keyword ``reference``: mode 3 degrees, 1 sexagesimal, 0, 2 none."""
    line, words = next(
        (s.values["reference"] for s in sections if "reference" in s.values), (0, ["0"])
    )
    try:
        mode = int(words[0])
        if mode == 3:
            return sky_position((float(words[1]), float(words[2])))
        if mode == 1:
            return sky_position((15 * _sexagesimal(words[1]), _sexagesimal(words[2])))
    except (ValueError, IndexError):
        raise InputError(
            f"{path}, line {line}: reference {' '.join(words)!r} is not a mode and a position; "
            "write e.g. reference 3 342.18322 -44.530889"
        ) from None
    raise InputError(
        f"{path} has no sky position (reference {mode}); write `reference 3 RA DEC` in its section "
        "runmode, or pass center=(ra, dec) in degrees"
    )


def _sexagesimal(text: str) -> float:
    parts = [float(p) for p in text.split(":")]
    value = sum(abs(p) / 60**i for i, p in enumerate(parts))
    return -value if text.lstrip().startswith("-") else value


def _cosmology(path: Any, sections: list[Section]) -> tuple[float, float]:
    """H0 and Omega_m; a warning where they are missing or the universe is not flat LCDM."""
    section = next((s for s in sections if s.kind.startswith("cosmolog")), None)
    if section is None:
        warnings.warn(f"{path} has no cosmology: H0 = 70, Om = 0.3 are assumed", stacklevel=3)
        return 70.0, 0.3
    h0, om0 = section.number("h0", 70.0), section.number("omegam", 0.3)
    de, w = section.number("omegax", 1 - om0), section.number("wx", -1.0)
    if abs(om0 + de - 1) > 1e-3 or abs(w + 1) > 1e-3 or abs(section.number("wa", 0.0)) > 1e-3:
        warnings.warn(
            f"{path}: Om = {om0:g}, Ox = {de:g}, w = {w:g} is not a flat universe with a "
            f"cosmological constant; distances use Om = {om0:g} in one",
            stacklevel=3,
        )
    return check_cosmology(h0, om0, f"{path}: ")


def _read_potential(section: Section, index: int, h0: float, om0: float) -> dict[str, Any]:
    """One potential as a row of `COLUMNS`, checked."""
    where = f"{section.path}, line {section.line}: {section.label}"
    z_lens = section.number("z_lens")
    if not z_lens > 0:
        raise InputError(f"{where} has z_lens = {z_lens:g}; give the lens redshift")
    row: dict[str, Any] = {
        "name": section.name or f"O{index + 1}",
        "profile": section.number("profile"),
        "z_lens": z_lens,
    }
    if row["profile"] not in (dpie.DPIE, dpie.SHEAR):
        raise InputError(
            f"{where} has profile {row['profile']:g}; only 81 (dPIE) and 14 (shear) can be read"
        )
    if row["profile"] == dpie.DPIE:
        for key in ("core_radius", "cut_radius"):
            row[key] = _radius(section, key, _kpc_per_arcsec(z_lens, h0, om0))
        for key in ("x_centre", "y_centre", "v_disp"):
            row[key] = section.number(key)
        if "ellip_pot" in section.values and "ellipticity" not in section.values:
            raise InputError(f"{where} has ellip_pot only; give the ellipticity of the mass")
        row["ellipticity"] = section.number("ellipticity", 0.0)
    else:
        row["gamma"] = section.number("gamma")
        if section.number("kappa", 0.0) != 0:
            raise InputError(
                f"{where} has kappa = {section.number('kappa'):g}; only a shear without "
                "convergence can be read, remove the mass sheet"
            )
    row["angle_pos"] = section.number("angle_pos", 0.0)
    row = complete(row, index, z_lens)
    check(row, where)
    return row


@lru_cache(maxsize=64)
def _kpc_per_arcsec(z_lens: float, h0: float, om0: float) -> float:
    return Field((0.0, 0.0), z_lens, np.inf, h0, om0).kpc_per_arcsec


def _radius(section: Section, key: str, kpc_per_arcsec: float) -> float:
    """Give a radius in arcsec, from arcsec or kpc; where both differ, as Lenstool, from kpc."""
    kpc = section.number(f"{key}_kpc", 0.0) / kpc_per_arcsec
    if not kpc:
        return section.number(key)
    if key not in section.values:
        return kpc
    arcsec = section.number(key)
    if abs(arcsec - kpc) <= 1e-3 * kpc + 2e-6:  # they are printed with six decimals
        return arcsec
    warnings.warn(
        f"{section.path}, line {section.line}: {section.label} has {key} = {arcsec:g} arcsec and "
        f"{key}_kpc of {kpc:g} arcsec; the latter is used, as Lenstool does",
        stacklevel=5,
    )
    return kpc
