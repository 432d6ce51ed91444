"""Density of sources: the map that is compared with the lens, and the filling of masked areas.

Strategy of every graph here: one small task per catalogue partition takes pixel positions, one
task sorts them all and builds the far field (`gcdask.kernels.nearfar`), and that result goes to
one task per chunk, which adds the near part. Positions are summed in one global order, so that a
pixel has the same bits for every chunking and partitioning: the draws of `inpaint` rely on it.
"""

from gcdask.density.inpainting import inpaint, inpaint_intensity
from gcdask.density.maps import density_map, number_density

__all__ = ["density_map", "inpaint", "inpaint_intensity", "number_density"]
