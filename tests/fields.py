"""A small field of point sources with a lens and a second field, for runs in tests."""

from pathlib import Path

import numpy as np
import pandas as pd

from gcdask import catalog, mosaic
from gcdask.grid import Grid

TILE, N = 256, 4  # tiles of 256 px, four by four
CENTER = (342.18, -44.53)
CONFIG = f"""
mosaic: {{path: field.zarr, use: [A, B]}}
reference: {{path: other.zarr, use: [A, B], name: other}}
field: {{center: [{CENTER[0]}, {CENTER[1]}], z_lens: 0.348}}
mask: {{edge: 0.3, extended: null}}
noise: {{cell: 64, patch: 64}}
tiles: {{size: {TILE}, retries: 0}}
detect: {{threshold: 4 sigma, level: 1}}
lens: {{path: lens.par}}
density: {{pixel: 0.24, alphas: [1.4]}}
compare: {{box: 3.0, n_range: [0.1, 5], jackknife: 5, bootstrap: 0, mocks: 0, likelihood: false}}
profiles:
  r_min: 0.5
  n: 6
  slope_range: [1, 12]
  contamination: {{method: given, value: 0.1}}
mass: {{radius: [8]}}
output: {{fits: true, figures: false, report: false}}
"""
LENS = f"""
runmode
    reference 3 {CENTER[0]} {CENTER[1]}
    end
potentiel O1
    profil 81
    x_centre 0
    y_centre 0
    core_radius 3
    cut_radius 100
    v_disp 1000
    z_lens 0.348
    end
fini
"""


def sky(seed, shape=(N * TILE, N * TILE)):
    """Noise and point sources, whose pixels depend on their place alone: a field can grow."""
    big = np.random.default_rng(seed).normal(size=(6 * TILE, 6 * TILE))
    rng = np.random.default_rng(99)
    y, x = np.mgrid[-6:7, -6:7]
    for cy, cx in rng.integers(8, 6 * TILE - 8, (600, 2)):
        big[cy - 6 : cy + 7, cx - 6 : cx + 7] += rng.uniform(15, 60) * np.exp(-(y**2 + x**2) / 1.6)
    return big[: shape[0], : shape[1]].astype("float32")


def store(path, images):
    """A mosaic in zarr; its WCS does not depend on its size."""
    grid = Grid.tangent(CENTER, (N * TILE, N * TILE), 0.03)
    shape = next(iter(images.values())).shape
    grid = Grid(shape, grid.header)
    folder = Path(path).with_suffix(".fits.d")
    folder.mkdir(exist_ok=True)
    files = {}
    for band, image in images.items():
        files[band] = mosaic.write_map(
            grid.wrap(image, "sci", "MJy/sr"), folder / f"{band}.fits", overwrite=True
        )
    mosaic.ingest(path, files, chunks=TILE, overwrite=True)


def make(folder, n=N):
    """Three bands (the third is not in the detection), a second field, a lens, a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    store(folder / "field.zarr", {b: sky(k, (n * TILE, n * TILE)) for k, b in enumerate("ABC")})
    store(folder / "other.zarr", {b: sky(k + 7, (2 * TILE, TILE)) for k, b in enumerate("AB")})
    (folder / "lens.par").write_text(LENS)
    (folder / "field.yaml").write_text(CONFIG)
    return folder


def table(result, name="catalog.parquet"):
    """The catalogue of a run, sorted."""
    frame = catalog.read(Path(result.out, name)).compute()
    return frame.sort_values("id", ignore_index=True)


def tiles_of(result):
    """Of each field how many tiles a run did and how many it found done."""
    fields = result.stages["detect"]["fields"]
    return {name: (f["done"], f["unchanged"]) for name, f in fields.items()}


def assert_same(result, other):
    """The same catalogues, maps and numbers, to the last bit."""
    pd.testing.assert_frame_equal(table(result), table(other), check_exact=True)
    for group, name in (("image", "detection"), ("image", "mask"), ("smooth", "density")):
        maps = [mosaic.open_map(Path(r.out, "maps.zarr", group), name) for r in (result, other)]
        np.testing.assert_array_equal(*maps)
    numbers = [{k: v for k, v in r.results.items() if k != "notes"} for r in (result, other)]
    assert numbers[0] == numbers[1]
