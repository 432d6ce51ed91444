"""Light onto pixels: point sources, galaxies, arcs and stars added to a block of an image.

Every function adds to ``image`` (float64, the pixels ``y0 <= y < y0 + ny``,
``x0 <= x < x0 + nx`` of the field). What a source adds to a pixel depends only on their distance,
and sources are added in the order given, so that blocks of any size agree bit for bit. Only
``+ - * / sqrt`` are used on pixels: they are rounded alike in vector and scalar code, which
compiled ``exp`` or ``pow`` need not be.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def split(position: float, over: int) -> tuple[int, int, float]:
    """Nearest pixel of a position, its node in the table of sub-pixel phases, and the weight.

    The offset of pixel ``i`` from the source is ``(i - nearest) + (node - over//2 + weight)/over``.
    """
    nearest = math.floor(position + 0.5)
    phase = (nearest - position) * over
    node = math.floor(phase)
    return nearest, node + over // 2, phase - node


@njit(cache=True, nogil=True)
def points(
    image: Any, y0: int, x0: int, x: Any, y: Any, flux: Any, start: Any, cell: int, table: Any
) -> None:
    """Point sources, bilinear between the phases of ``table``.

    Parameters
    ----------
    image : (ny, nx) float64 array
    y0, x0 : int
        Pixel of ``image[0, 0]``.
    x, y, flux : (n,) arrays
        Sources, sorted by the cell that holds them.
    start : (rows, columns + 1) int64 array
        ``start[i, j]`` is the first source of cell ``(i, j)``, which holds the sources with
        ``floor(y / cell) + 1 = i`` and the same in x (one cell of margin); ``start[i, -1]`` is
        the end of row ``i``.
    cell : int
        Side of a cell in pixels, at least the radius of the table.
    table : (over + 1, over + 1, side, side) float64 array
        Effective PSF at the phases ``(node - over/2) / over`` px, ``side = 2 radius + 1``.
    """
    over, side = table.shape[0] - 1, table.shape[2]
    radius = side // 2
    ny, nx = image.shape
    rows, columns = start.shape[0], start.shape[1] - 1
    first = max((y0 - radius - 1) // cell + 1, 0)
    last = min((y0 + ny + radius) // cell + 1, rows - 1)
    left = max((x0 - radius - 1) // cell + 1, 0)
    right = min((x0 + nx + radius) // cell + 1, columns - 1)
    for i in range(first, last + 1):
        if right < left:
            break
        for s in range(start[i, left], start[i, right + 1]):
            _stamp(image, y0, x0, x[s], y[s], flux[s], table, over, radius)


@njit(cache=True, nogil=True)
def _stamp(
    image: Any,
    y0: int,
    x0: int,
    x: float,
    y: float,
    flux: float,
    table: Any,
    over: int,
    radius: int,
) -> None:
    ny, nx = image.shape
    yc, py, wy = split(y, over)
    xc, px, wx = split(x, over)
    a, b = (1 - wy) * (1 - wx) * flux, (1 - wy) * wx * flux
    c, d = wy * (1 - wx) * flux, wy * wx * flux
    qy, qx = min(py + 1, over), min(px + 1, over)
    j0, j1 = max(xc - radius, x0), min(xc + radius + 1, x0 + nx)
    for i in range(max(yc - radius, y0), min(yc + radius + 1, y0 + ny)):
        k = i - yc + radius
        for j in range(j0, j1):
            m = j - xc + radius
            image[i - y0, j - x0] += (
                a * table[py, px, k, m]
                + b * table[py, qx, k, m]
                + c * table[qy, px, k, m]
                + d * table[qy, qx, k, m]
            )


@njit(cache=True, nogil=True)
def galaxies(image: Any, y0: int, x0: int, shape: Any, amplitude: Any, profile: Any) -> None:
    """Elliptical galaxies from tabulated radial profiles.

    Parameters
    ----------
    image, y0, x0
        As in `points`.
    shape : (n, 7) float64 array
        ``x, y, cos, sin, q, soft, radius``: centre (px), direction of the major axis from +x,
        axis ratio, softening and truncation of the elliptical radius (px).
    amplitude : (n,) float64 array
        Factor of the profile.
    profile : (n, m) float64 array
        Surface brightness at ``m`` values of ``sqrt(r)``, evenly from ``sqrt(soft)`` to
        ``sqrt(radius)``, where r is the softened elliptical radius.
    """
    ny, nx = image.shape
    m = profile.shape[1]
    for g in range(shape.shape[0]):
        x, y, cos, sin, q, soft, radius = shape[g]
        low = math.sqrt(soft)
        scale = (m - 1) / (math.sqrt(radius) - low)
        r2max, soft2 = radius * radius, soft * soft
        i0, i1 = max(math.ceil(y - radius), y0), min(math.floor(y + radius) + 1, y0 + ny)
        j0, j1 = max(math.ceil(x - radius), x0), min(math.floor(x + radius) + 1, x0 + nx)
        for i in range(i0, i1):
            for j in range(j0, j1):
                along = (j - x) * cos + (i - y) * sin
                across = ((i - y) * cos - (j - x) * sin) / q
                r2 = along * along + across * across + soft2
                if r2 < r2max:
                    t = (math.sqrt(math.sqrt(r2)) - low) * scale
                    k = min(int(t), m - 2)
                    w = t - k
                    image[i - y0, j - x0] += amplitude[g] * (
                        (1 - w) * profile[g, k] + w * profile[g, k + 1]
                    )


@njit(cache=True, nogil=True)
def arcs(image: Any, y0: int, x0: int, shape: Any, amplitude: Any) -> None:
    """Tangential strips: ``amplitude (1 - (s/half)^2)^2 (1 + (d/width)^2)^-3``.

    ``shape`` is (n, 7): ``x, y`` of the centre of curvature (px), unit vector ``ux, uy`` towards
    the middle of the arc, radius of curvature, half length (px) and width (px); ``d`` is the
    distance from the circle, ``s`` that from the middle along it (as radius times the sine).
    """
    ny, nx = image.shape
    for g in range(shape.shape[0]):
        x, y, ux, uy, radius, half, width = shape[g]
        reach = half + 6 * width + 1
        xm, ym = x + radius * ux, y + radius * uy
        i0, i1 = max(math.ceil(ym - reach), y0), min(math.floor(ym + reach) + 1, y0 + ny)
        j0, j1 = max(math.ceil(xm - reach), x0), min(math.floor(xm + reach) + 1, x0 + nx)
        for i in range(i0, i1):
            for j in range(j0, j1):
                rho = math.sqrt((j - x) * (j - x) + (i - y) * (i - y))
                if rho == 0 or (j - x) * ux + (i - y) * uy <= 0:
                    continue
                d = (rho - radius) / width
                s = radius * ((i - y) * ux - (j - x) * uy) / (rho * half)
                if abs(d) < 6 and abs(s) < 1:
                    fade, side = 1 - s * s, 1 + d * d
                    image[i - y0, j - x0] += amplitude[g] * fade * fade / (side * side * side)


@njit(cache=True, nogil=True)
def stars(
    image: Any, y0: int, x0: int, x: Any, y: Any, core: Any, outer: Any, reach: Any, table: Any,
    wing: Any, spikes: Any,
) -> None:  # fmt: skip
    """Bright stars: the table inside its radius, analytic wings and spikes outside it.

    Parameters
    ----------
    image, y0, x0, table
        As in `points`.
    x, y : (n,) arrays
        Centres (px).
    core, outer : (n,) arrays
        Flux that multiplies the table, and the one that multiplies wings and spikes.
    reach : (n,) array
        Radius (px) where the star ends.
    wing : (2,) array
        Share and scale ``a`` (px) of ``share / (2 pi a^2) (1 + r^2/a^2)^-3/2``.
    spikes : (m, 5) array
        ``ux, uy, share, width, scale`` of each: `spike_profile` along the unit vector.
    """
    over, side = table.shape[0] - 1, table.shape[2]
    radius = side // 2
    ny, nx = image.shape
    for g in range(x.size):
        yc, py, wy = split(y[g], over)
        xc, px, wx = split(x[g], over)
        qy, qx = min(py + 1, over), min(px + 1, over)
        i0, i1 = max(int(yc - reach[g]), y0), min(int(yc + reach[g]) + 1, y0 + ny)
        j0, j1 = max(int(xc - reach[g]), x0), min(int(xc + reach[g]) + 1, x0 + nx)
        for i in range(i0, i1):
            for j in range(j0, j1):
                dx, dy = j - x[g], i - y[g]
                r2 = dx * dx + dy * dy
                k, m = i - yc + radius, j - xc + radius
                if r2 <= radius * radius and 0 <= k < side and 0 <= m < side:
                    image[i - y0, j - x0] += core[g] * (
                        (1 - wy) * ((1 - wx) * table[py, px, k, m] + wx * table[py, qx, k, m])
                        + wy * ((1 - wx) * table[qy, px, k, m] + wx * table[qy, qx, k, m])
                    )
                elif r2 < reach[g] * reach[g]:
                    image[i - y0, j - x0] += outer[g] * halo(dx, dy, wing, spikes)


@njit(cache=True, nogil=True)
def halo(dx: float, dy: float, wing: Any, spikes: Any) -> float:
    """Wings and spikes of the PSF (per px^2) at an offset; see `stars`."""
    one = 1 + (dx * dx + dy * dy) / (wing[1] * wing[1])
    value = wing[0] / (2 * math.pi * wing[1] * wing[1]) / (one * math.sqrt(one))
    for k in range(spikes.shape[0]):
        ux, uy, share, width, scale = spikes[k]
        along, across = dx * ux + dy * uy, (dy * ux - dx * uy) / width
        if along > 0:
            # integral over across: width pi/2; over along: scale
            fall, wide = 1 + along / scale, 1 + across * across
            value += share / (scale * width * math.pi / 2) / (fall * fall * wide * wide)
    return value


@njit(cache=True, nogil=True)
def halo_image(dx: Any, dy: Any, wing: Any, spikes: Any) -> Any:
    """`halo` at the offsets ``dx`` (columns) and ``dy`` (rows)."""
    out = np.empty((dy.size, dx.size))
    for i in range(dy.size):
        for j in range(dx.size):
            out[i, j] = halo(dx[j], dy[i], wing, spikes)
    return out


@njit(cache=True, nogil=True)
def ellipses(flags: Any, y0: int, x0: int, shape: Any, radius: Any, bit: int) -> None:
    """Set ``bit`` where the elliptical radius is below ``radius``; ``shape`` as in `galaxies`."""
    ny, nx = flags.shape
    for g in range(shape.shape[0]):
        x, y, cos, sin, q = shape[g, 0], shape[g, 1], shape[g, 2], shape[g, 3], shape[g, 4]
        r = radius[g]
        for i in range(max(math.ceil(y - r), y0), min(math.floor(y + r) + 1, y0 + ny)):
            for j in range(max(math.ceil(x - r), x0), min(math.floor(x + r) + 1, x0 + nx)):
                along = (j - x) * cos + (i - y) * sin
                across = ((i - y) * cos - (j - x) * sin) / q
                if along * along + across * across < r * r:
                    flags[i - y0, j - x0] |= bit
