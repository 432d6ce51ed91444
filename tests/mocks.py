"""Clusters drawn from real lens models: what the comparison with dark matter is tested on."""

from functools import lru_cache

import numpy as np
from conftest import shared_folder

import gcdask
from gcdask import density, lensing
from gcdask.luminosity import Population

AS1063 = (342.18322, -44.530889)  # the BCG
CONTAMINATION = 0.363  # arcsec-2 (Diego et al. 2026)
N_GC, RADIUS = 23_800, 60.0  # clusters within so many arcsec
KAPPA_MAX = 2.0  # where galaxies' cores would hold most clusters
#: A cluster's halo, for a lens model that is not read from a file.
HALO = {
    "x_centre": 0.0,
    "y_centre": 0.0,
    "ellipticity": 0.4,
    "angle_pos": -36.0,
    "core_radius": 5.0,
    "cut_radius": 200.0,
    "v_disp": 1000.0,
}


@lru_cache(maxsize=2)
def as1063_lens():
    """Model of AS1063 by the CATS team."""
    return lensing.read_lenstool(shared_folder() / "as1063" / "cats_gold_best.par")


@lru_cache(maxsize=4)
def as1063_kappa(side=132.0, pixel=0.24):
    """Convergence for z_s = 3 in a square about the BCG, in memory, capped at `KAPPA_MAX`."""
    n = round(side / pixel)
    grid = gcdask.Grid.tangent(AS1063, (n, n), pixel)
    kappa = as1063_lens().kappa(grid, 3.0).compute()
    return kappa.clip(max=KAPPA_MAX).assign_attrs(kappa.attrs).chunk(256)


def intensity(kappa, g=1.6, n=N_GC, contamination=CONTAMINATION):
    """Sources per arcsec^2: kappa^g with ``n`` within 60 arcsec of the BCG, and contaminants."""
    grid = gcdask.Grid.of(kappa)
    r = np.hypot(*grid.offsets(*grid.mesh(), AS1063))
    shape = kappa.data.compute() ** g
    rate = shape * (n / (shape[r < RADIUS].sum() * grid.pixel_scale**2)) + contamination
    return grid.wrap(rate, "intensity", "arcsec-2").chunk(256)


def clusters(kappa, g=1.6, n=N_GC, contamination=CONTAMINATION, seed=0, realisation=0):
    """Draw a catalogue, in memory."""
    rate = intensity(kappa, g, n, contamination)
    return density.draw_sources(rate, seed, realisation=realisation).compute()


SMACS0723 = (110.826989, -73.454723)  # the BCG
FIELD_A, FIELD_B = gcdask.Field(AS1063, 0.348), gcdask.Field(SMACS0723, 0.39)
DEPTH_A, DEPTH_B = 30.9, 30.6  # AB magnitudes down to which clusters are found
CONTAMINATION_B = 0.25  # arcsec-2, fewer than in AS1063 as SMACS0723 is less deep


@lru_cache(maxsize=2)
def smacs0723_kappa(side=132.0, pixel=0.24):
    """Convergence of SMACS0723 for z_s = 3 by Mahler et al., as `as1063_kappa`."""
    model = lensing.read_lenstool(shared_folder() / "smacs0723" / "mahler2022_iclv2_best.par")
    n = round(side / pixel)
    kappa = model.kappa(gcdask.Grid.tangent(SMACS0723, (n, n), pixel), 3.0).compute()
    return kappa.clip(max=KAPPA_MAX).assign_attrs(kappa.attrs).chunk(256)


def populations():
    """Clusters of both fields and how deep they are seen."""
    return [Population.at(f, d) for f, d in ((FIELD_A, DEPTH_A), (FIELD_B, DEPTH_B))]


def smacs0723_intensity(g=1.6):
    """Sources per arcsec^2 in SMACS0723 by the law of `intensity` in AS1063: N kpc-2 ~ Sigma^g."""
    a, b = populations()
    near = as1063_kappa()
    rate = (intensity(near, g).values.max() - CONTAMINATION) / near.values.max() ** g
    per_kpc2 = rate / (a.fraction() * FIELD_A.kpc_per_arcsec**2)  # of all clusters, at kappa = 1
    kappa = smacs0723_kappa()
    mass = kappa.values * FIELD_B.sigma_cr / FIELD_A.sigma_cr
    seen = per_kpc2 * mass**g * b.fraction() * FIELD_B.kpc_per_arcsec**2
    return gcdask.Grid.of(kappa).wrap(seen + CONTAMINATION_B, "intensity", "arcsec-2").chunk(256)
