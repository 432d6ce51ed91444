"""Images of a source: found on a grid, refined by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gcdask.errors import InputError

if TYPE_CHECKING:
    from gcdask.lensing.lens import Lens

STEP = 0.2  # arcsec, of the grid on which images are sought: 0.3 misses some behind galaxies
MAX_NODES = 2e7  # of that grid, which is in memory at once
TOLERANCE = 1e-4  # arcsec in the source plane
EXTENT = 120.0  # arcsec from the lens's centre within which its largest deflection is sought
SAME = 1e-3  # arcsec: solutions closer than this are one image
PULL = 1.0  # arcsec: the longest step of Newton's method
ROUNDS = 60  # of Newton's method
ANGLES = 2 * np.pi * np.arange(8) / 8
# steps about an image where its twins are sought, shape (2, 24)
RING = np.array([np.outer([0.02, 0.08, 0.3], f(ANGLES)).ravel() for f in (np.cos, np.sin)])
KINDS = np.array(["minimum", "saddle", "maximum"], object)


def counter_images(
    lens: Lens,
    ra: float,
    dec: float,
    z_source: float,
    *,
    radius: float | None = None,
    step: float = STEP,
    tolerance: float = TOLERANCE,
) -> pd.DataFrame:
    """All images of the source that is seen at one position; see `Lens.counter_images`."""
    if np.ndim(ra) or np.ndim(dec):
        raise InputError(f"ra = {ra}, dec = {dec} are not one position; give two numbers (deg)")
    plane = ImagePlane.of(lens, [ra], [dec], z_source, radius=radius, step=step)
    return plane.images(ra, dec, tolerance)


@dataclass(frozen=True)
class ImagePlane:
    """A lens for one source redshift, traced on a grid that serves many sources.

    Attributes
    ----------
    lens : Lens
    z_source : float
    x, y : ndarray, shape (nx,), (ny,)
        Nodes in arcsec (west, north).
    beta : ndarray, shape (2, ny, nx)
        Where their light comes from; NaN where the lens is not known.
    """

    lens: Lens
    z_source: float
    x: np.ndarray
    y: np.ndarray
    beta: np.ndarray

    @classmethod
    def of(
        cls,
        lens: Lens,
        ra: Any,
        dec: Any,
        z_source: float,
        *,
        radius: float | None = None,
        step: float = STEP,
    ) -> ImagePlane:
        """Trace a grid that holds all images of the sources seen at these positions.

        Parameters are those of `Lens.counter_images`, ``ra`` and ``dec`` arrays of positions.
        Positions that are not known to the lens are left to `images`.
        """
        lens.ratio(z_source)
        for name, value in (("radius", radius), ("step", step)):
            if value is not None and not 0 < value < np.inf:
                raise InputError(f"{name} = {value} is not a positive number of arcsec; give one")
        source = np.stack(lens.xy(*lens.trace(ra, dec, z_source)))
        source = source[:, np.isfinite(source).all(axis=0)]
        if source.size == 0:
            raise InputError(
                f"the lens {lens.name} is not known at RA, Dec = {_first(ra)}, {_first(dec)}; give "
                "positions on its maps, in deg"
            )
        radius = _reach(lens, z_source) if radius is None else float(radius)
        low, high = source.min(1) - radius, source.max(1) + radius
        nodes = float(np.prod((high - low) / step))
        if nodes > MAX_NODES:
            raise InputError(
                f"images are sought on {nodes:.2g} nodes, {(high - low).max():.4g} arcsec wide, "
                f"above {MAX_NODES:.0e}; select sources near the lens, or give a larger step"
            )
        # the nodes belong to the lens, not to the source
        x, y = (
            step * np.arange(np.floor(a / step), np.ceil(b / step) + 1)
            for a, b in zip(low, high, strict=True)
        )
        return cls(lens, float(z_source), x, y, _beta(lens, *np.meshgrid(x, y), z_source))

    def images(self, ra: float, dec: float, tolerance: float = TOLERANCE) -> pd.DataFrame:
        """Images of the source seen at one position; as `Lens.counter_images` returns them."""
        x0, y0 = (float(v) for v in self.lens.xy(ra, dec))
        source = _beta(self.lens, np.array(x0), np.array(y0), self.z_source)
        if not np.isfinite(source).all():
            raise InputError(
                f"the lens {self.lens.name} is not known at RA, Dec = {ra}, {dec}; give a "
                "position on its maps, in deg"
            )
        start_x, start_y = self._candidates(source)
        x, y, residual = solve(self.lens, start_x, start_y, source, self.z_source)
        good = residual < tolerance
        x, y, residual = x[good], y[good], residual[good]
        # an image near a critical curve has a twin across, nearer than the grid can tell
        off_x, off_y = (self.x[1] - self.x[0]) * RING
        start_x = np.add.outer(np.append(x0, x), off_x).ravel()
        start_y = np.add.outer(np.append(y0, y), off_y).ravel()
        more = np.stack(solve(self.lens, start_x, start_y, source, self.z_source))
        more = more[:, more[2] < tolerance]
        x, y, residual = np.concatenate([[x, y, residual], more], axis=1)
        return self._table((x0, y0), source, x, y, residual)

    def _candidates(self, source: np.ndarray) -> np.ndarray:
        """Where to start: triangles that cover the source, nodes nearest to it; shape (2, n)."""
        off = self.beta - source[:, None, None]
        corners = off[:, :-1, :-1], off[:, :-1, 1:], off[:, 1:, 1:], off[:, 1:, :-1]
        sides = [_cross(corners[i], corners[(i + 1) % 4]) for i in range(4)]
        diagonal = _cross(corners[2], corners[0])
        covered = np.zeros(sides[0].shape, bool)
        for a, b, c in ((sides[0], sides[1], diagonal), (sides[2], sides[3], -diagonal)):
            covered |= (a >= 0) & (b >= 0) & (c >= 0) | (a <= 0) & (b <= 0) & (c <= 0)
        rows, cols = np.nonzero(covered)
        half = (self.x[1] - self.x[0]) / 2
        x, y = self.x[cols] + half, self.y[rows] + half
        near_rows, near_cols = np.nonzero(_minima(np.hypot(*off)))
        return np.array([np.append(x, self.x[near_cols]), np.append(y, self.y[near_rows])])

    def _table(
        self,
        given: tuple[float, float],
        source: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        residual: np.ndarray,
    ) -> pd.DataFrame:
        """The given image, which is a solution as it stands, and those that differ from it."""
        x, y = np.append(given[0], x), np.append(given[1], y)
        residual = np.append(0.0, residual)
        kept: list[int] = []
        for k in [0, *(1 + np.argsort(residual[1:], kind="stable"))]:
            if all(np.hypot(x[k] - x[j], y[k] - y[j]) > SAME for j in kept):
                kept.append(int(k))
        x, y, residual = x[kept], y[kept], residual[kept]
        ra, dec = self.lens.sky(x, y)
        kappa, gamma1, gamma2 = self.lens.jacobian_at(ra, dec, self.z_source)
        inverse = (1 - kappa) ** 2 - gamma1**2 - gamma2**2
        with np.errstate(divide="ignore"):
            mu = 1 / inverse
        kind = KINDS[np.where(inverse < 0, 1, np.where(kappa < 1, 0, 2))]
        separation = np.hypot(x - given[0], y - given[1])
        table = pd.DataFrame(
            {
                "ra": ra,
                "dec": dec,
                "mu": mu,
                "kind": kind,
                "residual": residual,
                "separation": separation,
            }
        )
        order = np.append(0, 1 + np.argsort(-np.abs(mu[1:]), kind="stable"))
        table = table.iloc[order].reset_index(drop=True)
        place = tuple(float(v) for v in self.lens.sky(*source))
        table.attrs = {"z_source": self.z_source, "model": self.lens.name, "source": place}
        table.attrs["index"] = int(np.where(table["kind"] == "saddle", -1, 1).sum())
        return table


def solve(
    lens: Lens, x: np.ndarray, y: np.ndarray, source: np.ndarray, z_source: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Newton's method for beta(theta) = source, from many starts at once.

    A step is at most `PULL` long and is halved until it brings the residual down.

    Parameters
    ----------
    x, y : array, shape (n,)
        Starts in arcsec (west, north).
    source : array, shape (2,) or (2, n)
        In the source plane, arcsec.

    Returns
    -------
    x, y, residual : ndarray, shape (n,)
        Where it ended, and how far from the source (arcsec); inf where the lens is not known.
    """
    x, y = np.array(x, float), np.array(y, float)
    source = np.broadcast_to(np.reshape(source, (2, -1)), (2, x.size))
    miss = _miss(lens, x, y, source, z_source)
    size, reach = _size(miss), np.full(x.size, PULL)
    for _ in range(ROUNDS):
        go = np.flatnonzero((size > 1e-9) & np.isfinite(size) & (reach > 1e-7))
        if go.size == 0:
            break
        dx, dy = _newton_step(lens, x[go], y[go], miss[:, go], z_source, reach[go])
        there = _miss(lens, x[go] + dx, y[go] + dy, source[:, go], z_source)
        better = _size(there) < size[go]
        moved = go[better]
        x[moved] += dx[better]
        y[moved] += dy[better]
        miss[:, moved], size[moved] = there[:, better], _size(there)[better]
        reach[moved] = np.minimum(2 * reach[moved], PULL)
        reach[go[~better]] = np.hypot(dx, dy)[~better] / 2
    return x, y, size


def _newton_step(
    lens: Lens, x: np.ndarray, y: np.ndarray, miss: np.ndarray, z_source: float, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    kappa, gamma1, gamma2 = lens.jacobian_at(*lens.sky(x, y), z_source)
    det = (1 - kappa) ** 2 - gamma1**2 - gamma2**2
    det = np.where(np.abs(det) < 1e-12, 1e-12, det)
    dx = -((1 - kappa + gamma1) * miss[0] + gamma2 * miss[1]) / det
    dy = -(gamma2 * miss[0] + (1 - kappa - gamma1) * miss[1]) / det
    shrink = np.minimum(1, reach / np.maximum(np.hypot(dx, dy), 1e-300))
    return dx * shrink, dy * shrink


def _beta(lens: Lens, x: np.ndarray, y: np.ndarray, z_source: float) -> np.ndarray:
    alpha_x, alpha_y = lens.deflection_at(*lens.sky(x, y), z_source)
    return np.stack([x - alpha_x, y - alpha_y])


def _miss(
    lens: Lens, x: np.ndarray, y: np.ndarray, source: np.ndarray, z_source: float
) -> np.ndarray:
    return _beta(lens, x, y, z_source) - source


def _size(miss: np.ndarray) -> np.ndarray:
    size = np.hypot(*miss)
    return np.where(np.isfinite(size), size, np.inf)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[1] - a[1] * b[0]


def _minima(values: np.ndarray) -> np.ndarray:
    """Inner nodes that are not above any of their eight neighbours; NaN counts as far."""
    values = np.where(np.isfinite(values), values, np.inf)
    inner = values[1:-1, 1:-1]
    low = np.isfinite(inner)
    ny, nx = inner.shape
    for i in range(3):
        for j in range(3):
            low &= inner <= values[i : i + ny, j : j + nx]
    out = np.zeros(values.shape, bool)
    out[1:-1, 1:-1] = low
    return out


def _reach(lens: Lens, z_source: float) -> float:
    """Largest deflection (arcsec) near the lens: no image is farther from its source."""
    nodes = np.linspace(-EXTENT, EXTENT, 61)
    alpha = lens.deflection_at(*lens.sky(*np.meshgrid(nodes, nodes)), z_source)
    size = np.hypot(*alpha)
    return 1.05 * float(np.nanmax(size)) if np.isfinite(size).any() else EXTENT


def _first(values: Any) -> float:
    return float(np.ravel(values)[0])
