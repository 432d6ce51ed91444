"""A field that is processed in seconds: two bands, a lens model, regions and a configuration."""

from pathlib import Path

import numpy as np
import yaml
from astropy.io import fits

from gcdask.grid import Grid

CENTER = (342.18, -44.53)
N = 330  # px: four tiles of 256 px, 9.9 arcsec
LENS = f"""
runmode
    reference 3 {CENTER[0]} {CENTER[1]}
    end
potentiel O1
    profil 81
    x_centre 0
    y_centre 0
    ellipticite 0.2
    angle_pos 30
    core_radius 3
    cut_radius 100
    v_disp 1000
    z_lens 0.348
    end
cosmologie
    H0 70
    omegaM 0.3
    omegaX 0.7
    end
fini
"""
CONFIG = {
    "name": "tiny",
    "mosaic": {"bands": {"A": "A.fits", "B": "B.fits"}},
    "field": {"center": list(CENTER), "z_lens": 0.348},
    "mask": {
        "edge": 0.3, "bright": None, "luminous": None, "extended": None, "spikes": None,
        "regions": ["hidden.reg"],
    },
    "noise": {"cell": 64, "patch": 64},
    "tiles": {"size": 256},
    "detect": {"threshold": "4 sigma", "level": 1},
    "lens": {"path": "lens.par"},
    "density": {"alphas": [1.4]},
    "compare": {
        "box": 1.0, "n_range": [0.1, 5], "jackknife": 2,
        "bootstrap": 0, "mocks": 0, "likelihood": False,
    },
    "profiles": {
        "r_min": 0.5, "n": 6, "slope_range": [0.5, 4],
        "contamination": {"method": "given", "value": 0.1},
    },
    "mass": {"radius": [4]},
    "output": {"fits": False, "figures": False, "report": False},
    "cluster": {"workers": 0},
}  # fmt: skip


def image(path, data, *, unit="MJy/sr", wcs=True, size=N, **cards):
    """Write a FITS image."""
    header = Grid.tangent(CENTER, (size, size), 0.03).wcs.to_header() if wcs else fits.Header()
    header.update(cards)
    if unit is not None:
        header["BUNIT"] = unit
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True)


def make(folder, size=N, sources=80):
    """Write the field, with point sources near its middle, and ``tiny.yaml``."""
    folder = Path(folder)
    rng = np.random.default_rng(0)
    sky = np.zeros((size, size))
    r, angle = rng.uniform(3, 0.455 * size, sources), rng.uniform(0, 2 * np.pi, sources)
    at_x, at_y = size / 2 + r * np.cos(angle), size / 2 + r * np.sin(angle)
    for cx, cy, peak in zip(at_x, at_y, rng.uniform(15, 60, sources), strict=True):
        x0, y0 = max(int(cx) - 8, 0), max(int(cy) - 8, 0)
        y, x = np.mgrid[y0 : min(y0 + 17, size), x0 : min(x0 + 17, size)].astype(float)
        stamp = peak * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 0.9**2))
        sky[y0 : y0 + 17, x0 : x0 + 17] += stamp
    for band in "AB":
        pixels = (sky + rng.normal(size=sky.shape)).astype("float32")
        image(folder / f"{band}.fits", pixels, size=size)
    (folder / "lens.par").write_text(LENS)
    (folder / "hidden.reg").write_text(f'fk5\ncircle({CENTER[0]},{CENTER[1]},1")\n')
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder
