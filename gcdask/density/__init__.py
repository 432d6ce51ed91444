"""Density of sources: the map that is compared with the lens, and the filling of masked areas.

Strategy of every graph here: one task per catalogue partition takes pixel positions; from each
follow its extent and then, once the layout is known, its share of the far field
(`gcdask.kernels.nearfar`), and both are merged as trees. The far field goes to one task per chunk,
which adds what the sources about the chunk give; it reads only partitions that lie there. Where
partitions are not known by place, all positions are sorted in one task first. Shares add exactly
and near sums are taken in one global order, so that a pixel has the same bits for every chunking
and partitioning: the draws of `inpaint` rely on it.

Reading order: points, kernelsum, local (NumPy); graphs; maps, smooth, replicates, scan,
drawing, inpainting.
"""

from gcdask.density.drawing import draw_sources
from gcdask.density.inpainting import inpaint, inpaint_intensity
from gcdask.density.maps import density_map, number_density
from gcdask.density.replicates import bootstrap_maps
from gcdask.density.scan import density_scan
from gcdask.density.smooth import smooth_map

__all__ = [
    "bootstrap_maps",
    "density_map",
    "density_scan",
    "draw_sources",
    "inpaint",
    "inpaint_intensity",
    "number_density",
    "smooth_map",
]
