"""The lens of a run: its convergence on any grid, other models of it, its multiple images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import xarray as xr

from gcdask import catalog, lensing
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.grid import Field, Grid


@dataclass(frozen=True)
class OpenLens:
    """A lens model; only parameters, headers and small tables have been read.

    ``kappa`` gives the convergence on a grid, lazily, for the field's source redshift; ``model``
    traces rays (None for a map of kappa, which cannot). ``others`` are other models of the lens,
    ``images`` multiple images, and ``behind`` a catalogue of sources behind it.
    """

    kappa: Callable[[Grid], xr.DataArray]
    model: lensing.Lens | None
    others: Mapping[str, lensing.Lens] = field(default_factory=dict)
    images: pd.DataFrame | None = None
    behind: Any = None

    @property
    def models(self) -> dict[str, lensing.Lens]:
        """All models that trace rays, by name, that of the run first."""
        return {**({"lens": self.model} if self.model is not None else {}), **self.others}


def open_lens(config: Config, where: Field, grid: Grid) -> OpenLens:
    """Open the lens of a run.

    Raises
    ------
    InputError
        For files that cannot be used, a lens of another redshift or one that does not cover the
        field, and for what needs a model that traces rays if there is none.
    """
    section = config.lens
    assert section is not None
    try:
        kappa, model = _lens(config, where)
        kappa(grid.coarsen(max(min(grid.shape) // 64, 1)))  # does it cover the field?
    except InputError as error:
        raise _of("lens.path", section.path, error) from error
    others = {
        name: _lenstool(f"lens.others.{name}", path, where) for name, path in section.others.items()
    }
    _check_rays(config, model)
    images = behind = None
    if section.images is not None:
        try:
            images = lensing.read_images(section.images, center=where.center)
        except InputError as error:
            raise _of("lens.images", section.images, error) from error
    if config.magnification is not None:
        path = config.magnification.path
        try:
            behind = catalog.read(path)
        except InputError as error:
            raise _of("magnification.path", path, error) from error
    return OpenLens(kappa, model, others, images, behind)


def _of(key: str, path: str, error: InputError) -> InputError:
    text = str(error)
    return InputError(text if path in text else f"{key}: {path}: {text}")


def _check_rays(config: Config, model: lensing.Lens | None) -> None:
    """Refuse what a map of kappa cannot give, and sources that are not behind the lens."""
    section = config.lens
    assert section is not None
    wanted = {
        "lens.critical": section.critical,
        "lens.images": section.images,
        "magnification": config.magnification,
        "profiles.contamination.count_slope": config.profiles.contamination.count_slope,
    }
    for key, value in wanted.items():
        if model is None and value not in (None, ()):
            raise InputError(
                f"{key} needs a model that traces rays, but {section.path} is a map of kappa; give "
                "lens.path a Lenstool .par or deflection maps"
            )
    redshifts = [(f"lens.critical[{i}]", z) for i, z in enumerate(section.critical)]
    if config.magnification is not None:
        redshifts.append(("magnification.z_source", config.magnification.z_source))
    for key, z in redshifts:
        if z <= config.field.z_lens:
            raise InputError(
                f"{key}: {z:g} is not behind the lens (field.z_lens {config.field.z_lens:g}); give "
                "a larger redshift"
            )


def _lenstool(key: str, path: str, where: Field) -> lensing.LenstoolModel:
    try:
        model = lensing.read_lenstool(path)
    except InputError as error:
        raise _of(key, path, error) from error
    if abs(model.z_lens - where.z_lens) > 5e-3:
        raise InputError(
            f"{key}: {path} is a lens at z = {model.z_lens:g}, but field.z_lens is "
            f"{where.z_lens:g}; correct one of them"
        )
    return model


def _lens(
    config: Config, where: Field
) -> tuple[Callable[[Grid], xr.DataArray], lensing.Lens | None]:
    """Convergence on any grid for the field's source redshift, and what traces rays."""
    section = config.lens
    assert section is not None
    kind = section.resolved_kind
    if kind == "lenstool":
        model = _lenstool("lens.path", section.path, where)
        return lambda grid: model.kappa(grid, where.z_source), model
    redshifts: dict[str, Any] = {"z_lens": section.z_lens, "z_source": section.z_source}
    rays: lensing.Lens | None = None
    if kind == "kappa":
        stored = lensing.open_kappa(section.path, **redshifts)
    else:
        assert section.path_y is not None
        stored = lensing.open_deflection(section.path, section.path_y, **redshifts)
    if "z_source" not in stored.attrs:
        raise InputError(
            f"lens.path: {section.path} does not say for which source redshift it holds; give "
            "lens.z_source"
        )
    if kind == "deflection":
        known = {"z_lens": where.z_lens, "z_source": stored.attrs["z_source"]}
        rays = lensing.read_deflection(
            section.path,
            section.path_y,
            **known,
            center=where.center,
            h0=where.h0,
            om0=where.om0,
            outside=section.outside,
        )
    kappa = lensing.rescale(stored, where.z_source, field=where)
    return lambda grid: lensing.on_grid(kappa, grid, outside=section.outside), rays
