"""The sections of a configuration: one frozen model per stage, each key with its default.

`gcdask.config` puts them together and reads them from YAML. Checks that need several keys are
in the section that holds them all.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gcdask.configio import mistake
from gcdask.errors import InputError


# -- types ------------------------------------------------------------------------------------
def _increasing(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] < pair[1]:
        raise mistake("is not increasing; give [smaller, larger]")
    return pair


def _sky(center: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= center[0] <= 360:
        raise mistake("has an RA outside 0-360 deg; give [RA, Dec] in degrees")
    if not -90 <= center[1] <= 90:
        raise mistake("has a Dec outside -90-90 deg; give [RA, Dec] in degrees")
    return center


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _threshold(value: Any) -> float | str:
    if isinstance(value, str):
        words = value.split()
        if words == ["auto"]:
            return "auto"
        if len(words) == 2 and words[1] in ("sigma", "sigmas"):
            try:
                nsigma = float(words[0])
            except ValueError:
                nsigma = float("nan")
            if 0 < nsigma < float("inf"):
                return f"{nsigma:g} sigma"
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e300:
        return float(value)
    raise mistake('is no threshold; give a number > 0 (map units), "N sigma" with N > 0, or auto')


def _angles(value: Any) -> Any:
    numbers = isinstance(value, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= 360 for v in value
    )
    if value == "jwst" or (numbers and value):
        return value
    raise mistake("are no angles; give jwst or a list of position angles (deg)")


def _unit(value: str | None) -> str | None:
    if value is None:
        return None
    from gcdask.mosaic.units import canonical  # slow to import, and seldom needed

    try:
        return canonical(value, "unit") if value.strip() else ""
    except InputError:
        raise mistake("is not a known unit; give one like MJy/sr or nJy, or '' for none") from None


def _memory(value: Any) -> Any:
    from dask.utils import parse_bytes

    if value == "auto":
        return value
    try:
        if isinstance(value, str) and value.strip()[-1:] in ("B", "b") and parse_bytes(value) > 0:
            return value.strip()
    except ValueError:
        pass
    raise mistake("is no memory size; give auto or a size like 4GiB")


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Switch = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
Span = Annotated[tuple[Positive, Positive], AfterValidator(_increasing)]
Sky = Annotated[tuple[Number, Number], AfterValidator(_sky)]
Radii = Annotated[
    tuple[Positive, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=float | list[float]),
]
Angles = Annotated[
    Literal["jwst"] | tuple[float, ...],
    BeforeValidator(_angles, json_schema_input_type=Literal["jwst"] | list[float]),
]
Threshold = Annotated[float | str, BeforeValidator(_threshold, json_schema_input_type=float | str)]
Unit = Annotated[str | None, AfterValidator(_unit)]


def option(default: Any, description: str) -> Any:
    """Declare an optional key of a section, with its default and what it means."""
    return Field(default=default, description=description)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# -- input ------------------------------------------------------------------------------------
class Bright(Section):
    """Bright sources, found before the analysis filters."""

    fwhm: Span = option((0.5, 5.0), "widths of the high-pass (FWHM, px)")
    nsigma: Positive = option(150.0, "mask pixels above this many sigma")
    dilate: Natural = option(6, "radius of the disk around each masked pixel (px)")


class Luminous(Section):
    """Luminous peaks that remain in the first filtered image, removed before the second."""

    nsigma: Positive = option(100.0, "mask peaks above this many sigma")
    dilate: Natural = option(5, "radius of the disk around each masked pixel (px)")


class Extended(Section):
    """Extended sources: galaxies, member cores, arcs; structure wider than a point source."""

    fwhm: Span = option((4.0, 25.0), "widths of the band-pass (FWHM, px)")
    nsigma: Positive = option(25.0, "mask pixels above this many sigma")
    dilate: Natural = option(6, "radius of the disk around each masked pixel (px)")


class Star(Section):
    """One star whose diffraction spikes are masked."""

    ra: Annotated[Number, Field(ge=0, le=360)] = Field(description="right ascension (deg)")
    dec: Annotated[Number, Field(ge=-90, le=90)] = Field(description="declination (deg)")
    length: Positive | None = option(None, "length of a spike (arcsec); null = 2 x spikes.length")


class Spikes(Section):
    """Diffraction spikes of stars, found (`auto`) and given (`stars`)."""

    auto: Switch = option(True, "find the stars: peaks above nsigma")
    nsigma: Positive = option(
        300.0, "stars are looked for among band-passed maxima above this many sigma"
    )
    contrast: Positive = option(
        6.0, "how many sigma the spikes of a maximum must stand out to call it a star"
    )
    stars: tuple[Star, ...] = option((), "stars given by hand: ra, dec, length")
    angles: Angles = option(
        "jwst",
        "jwst (six spikes at the angle that the field's stars agree on) or position angles of the "
        "spikes (deg, north through east)",
    )
    width: Positive = option(0.25, "full width of a spike (arcsec)")
    length: Positive = option(
        1.2, "length of the spikes of a star of S/N 1000 (arcsec); grows with the root of S/N"
    )
    core: Positive = option(
        0.45, "radius of the core of a star of S/N 1000 (arcsec); grows with the cubic root of S/N"
    )


class Mask(Section):
    """What does not count: each cause sets its own bit."""

    edge: Annotated[Number, Field(ge=0)] = option(
        6.6, "width of the frame along the footprint's edge (arcsec); 0 = off"
    )
    bright: Bright | None = option(Bright(), "bright sources; null = off")
    luminous: Luminous | None = option(Luminous(), "luminous peaks; null = off")
    extended: Extended | None = option(Extended(), "extended sources; null = off")
    spikes: Spikes | None = option(Spikes(), "diffraction spikes; null = off")
    regions: tuple[Text, ...] = option((), "DS9 region files (.reg) to mask")
    files: tuple[Text, ...] = option(
        (), "mask images (FITS or zarr, not 0 = masked) on the mosaic's pixels"
    )


class Mosaic(Section):
    """Images of a field: one store (`path`) or one file per band (`bands`)."""

    path: Text | None = option(None, "zarr store of `gcdask ingest`, or one FITS file")
    bands: dict[str, Text] | None = option(None, "FITS file of each band: NAME: path")
    use: tuple[Text, ...] | None = option(None, "bands summed in the detection map; null = all")
    err: dict[str, Text] | None = option(None, "error map of each band: NAME: path")
    weight: dict[str, Text] | None = option(
        None, "weight map of each band (0 = no data): NAME: path"
    )
    unit: Unit = option(None, "unit of the pixels where the file names none (MJy/sr, nJy, ...)")
    align: Literal["refuse", "reproject"] = option(
        "refuse", "bands with other pixels: refuse, or reproject onto the first band"
    )

    @model_validator(mode="after")
    def _check(self) -> Mosaic:
        if (self.path is None) == (self.bands is None):
            both = self.path is not None
            raise mistake(
                ("path and bands are both given" if both else "neither path nor bands is given")
                + "; give path (a zarr store or one FITS file) or bands (NAME: file), not both"
            )
        if self.bands is not None:
            if not self.bands:
                raise mistake("no band is given; give NAME: file", "bands")
            for key in ("err", "weight", "use"):
                for band in getattr(self, key) or ():
                    if band not in self.bands:
                        raise mistake(
                            f"band {band} is not among the bands ({', '.join(self.bands)}); "
                            "name one of them",
                            key,
                        )
        if self.use is not None and not self.use:
            raise mistake("no band is named; name bands, or null for all", "use")
        return self


class Reference(Mosaic):
    """A second field, processed like the first: the contamination and the outskirts."""

    name: Text = option("reference", "name in figures and results")
    mask: Mask | None = option(None, "its own mask settings; null = those of `mask`")


class Catalog(Section):
    """Start from a catalogue instead of a mosaic."""

    path: Text = Field(description="builtin:faisst2022, or a catalogue (Parquet, FITS, ECSV, CSV)")
    columns: dict[str, Text] | None = option(
        None, "names in the file of our columns, as ra: RA_J2000; null = as they are"
    )
    center: Sky | None = option(
        None, "middle of the output maps [RA, Dec] (deg); null = field.center"
    )
    radius: Positive | None = option(
        None, "keep sources within this distance of the centre (arcsec); null = all"
    )
    size: Positive = option(120.0, "side of the output maps (arcsec)")
    pixel: Positive = option(0.2, "pixel of the output maps (arcsec)")

    @model_validator(mode="after")
    def _check(self) -> Catalog:
        if self.pixel > self.size / 4:
            raise mistake(
                f"{self.pixel:g} arcsec is coarse for a map of {self.size:g} arcsec; "
                "give a pixel below a quarter of size",
                "pixel",
            )
        return self


class FieldSection(Section):
    """What the images look at: the cluster and the cosmology."""

    center: Sky = Field(description="the brightest cluster galaxy [RA, Dec] (deg)")
    z_lens: Positive = Field(description="redshift of the cluster")
    z_source: Positive = option(3.0, "redshift for which convergences are given")
    h0: Positive = option(70.0, "Hubble constant (km/s/Mpc), flat cosmology")
    om0: Annotated[Number, Field(gt=0, le=1)] = option(0.3, "matter density")

    @model_validator(mode="after")
    def _check(self) -> FieldSection:
        if self.z_source <= self.z_lens:
            raise mistake(
                f"{self.z_source:g} is not behind the lens (z_lens {self.z_lens:g}); "
                "give a larger z_source",
                "z_source",
            )
        return self


# -- stages -----------------------------------------------------------------------------------
class Tiles(Section):
    """How the field is cut into tasks; results do not depend on it."""

    size: Annotated[int, Field(strict=True, ge=64)] = option(
        4096, "side of a tile (px): memory and number of tasks"
    )


class Noise(Section):
    """The map of robust local noise."""

    cell: Annotated[int, Field(strict=True, ge=8)] = option(
        128, "side of a cell of the noise map (px)"
    )
    patch: Annotated[int, Field(strict=True, ge=8)] = option(
        64, "side of the patch in each cell that is measured (px), at most cell"
    )

    @model_validator(mode="after")
    def _check(self) -> Noise:
        if self.patch > self.cell:
            raise mistake(
                f"{self.patch} px is larger than the cell ({self.cell} px); give at most that",
                "patch",
            )
        return self


class Detect(Section):
    """Filters, threshold and peaks (brightest first, a disk blanked around each)."""

    filters: tuple[Span, Span] = option(
        ((0.5, 5.0), (1.0, 3.0)), "the two high-pass filters [narrow, wide] (FWHM, px)"
    )
    threshold: Threshold = option(
        "auto", "T: auto, a number > 0 (map units), or N sigma of the local noise"
    )
    floor: Positive = option(3.0, "auto: T is not below this many sigma")
    fraction: Annotated[Number, Field(gt=0, lt=1)] = option(
        0.1, "auto: rate of peaks of the negated map at level x T, over that of the map"
    )
    radius: Annotated[int, Field(strict=True, ge=1, le=12)] = option(
        3, "radius of the disk blanked around a peak (px)"
    )
    rim: Natural = option(0, "grow masks of sources after filtering (px): 3 hides bright rims")
    level: Annotated[Number, Field(ge=1)] = option(2.0, "the catalogue keeps peaks above level x T")

    @property
    def threshold_kind(self) -> Literal["auto", "value", "sigma"]:
        """How `threshold` is meant: found (auto), a number of map units, or of sigmas."""
        if isinstance(self.threshold, float):
            return "value"
        return "auto" if self.threshold == "auto" else "sigma"

    @property
    def threshold_value(self) -> float | None:
        """The number in `threshold` (map units or sigmas); None for auto."""
        if isinstance(self.threshold, float):
            return self.threshold
        return None if self.threshold == "auto" else float(self.threshold.split()[0])


class Inpaint(Section):
    """Sources drawn where the mask hides them."""

    iterations: Natural = option(1, "times density and inpainting are repeated; 0 = off")
    seed: Natural = option(0, "seed of the draws")
    estimator: Literal["density", "local"] = option(
        "density", "intensity: density (the paper's rho) or local (masked smoothing)"
    )


class Density(Section):
    """The smooth map rho = sum of (softening + d)^-alpha."""

    alpha: Positive = option(1.6, "exponent of the kernel")
    softening: Positive = option(0.9, "softening length of the kernel (arcsec)")
    pixel: Positive = option(0.12, "sampling of the density maps (arcsec)")
    alphas: tuple[Positive, ...] = option(
        (1.4, 1.8), "other exponents, for comparison in the profiles"
    )


class Lens(Section):
    """The lens model that the sources are compared with."""

    path: Text = Field(description="Lenstool .par file, or FITS of kappa or of the x deflection")
    kind: Literal["lenstool", "kappa", "deflection"] | None = option(
        None, "null = from the name (.par: lenstool; path_y given: deflection; kappa)"
    )
    path_y: Text | None = option(None, "FITS of the y deflection (arcsec)")
    z_lens: Positive | None = option(None, "lens redshift of the map; null = from the file")
    z_source: Positive | None = option(
        None, "source redshift that the map holds for; null = from the file"
    )
    outside: Literal["error", "nan"] = option(
        "error", "where a map does not cover the field: error, or nan (compare the rest)"
    )

    @property
    def resolved_kind(self) -> Literal["lenstool", "kappa", "deflection"]:
        """`kind`, or what the file's name says."""
        if self.kind is not None:
            return self.kind
        if self.path_y is not None:
            return "deflection"
        return "lenstool" if self.path.lower().endswith(".par") else "kappa"

    @model_validator(mode="after")
    def _check(self) -> Lens:
        if self.resolved_kind == "deflection" and self.path_y is None:
            raise mistake("is missing; give the FITS file of the y deflection", "path_y")
        if self.path_y is not None and self.resolved_kind != "deflection":
            raise mistake(f"is not used by kind {self.kind}; remove path_y or kind", "path_y")
        if self.z_lens and self.z_source and self.z_source <= self.z_lens:
            raise mistake(
                f"{self.z_source:g} is not behind the lens (z_lens {self.z_lens:g}); "
                "give a larger z_source",
                "z_source",
            )
        return self


class Compare(Section):
    """Where and how density and convergence are compared."""

    radius: Positive | None = option(
        None, "compare within this distance of the centre (arcsec); null = everywhere"
    )
    sectors: dict[str, Number] = option(
        {"E": 90.0, "W": 270.0, "S": 180.0, "N": 0.0},
        "wedges about the centre: NAME: position angle (deg, north through east)",
    )
    half_width: Annotated[Number, Field(gt=0, le=180)] = option(
        45.0, "half the opening of a wedge (deg)"
    )
    box: Positive = option(3.0, "side of the boxes of the n-kappa relation (arcsec)")
    n_range: Span = option((0.67, 5.67), "densities that are fitted [low, high] (arcsec^-2)")
    jackknife: Positive = option(10.0, "side of the jackknife blocks (arcsec)")


class Contamination(Section):
    """How the density of sources that do not belong to the cluster is found."""

    method: Literal["outer", "reference", "given", "joint"] = option(
        "outer",
        "outer (mean beyond r_min), reference (mean of the reference field), given "
        "(value), joint (fit of a profile plus a constant)",
    )
    r_min: Positive | None = option(
        None, "outer, reference: use radii beyond this (arcsec); null = the outermost"
    )
    value: Annotated[Number, Field(ge=0)] | None = option(None, "given: arcsec^-2")
    error: Annotated[Number, Field(ge=0)] | None = option(None, "given: its error (arcsec^-2)")

    @model_validator(mode="after")
    def _check(self) -> Contamination:
        if self.method == "given" and self.value is None:
            raise mistake("is missing; method given needs a value (arcsec^-2)", "value")
        for key in ("value", "error"):
            if self.method != "given" and getattr(self, key) is not None:
                raise mistake(f"is not used by method {self.method}; use method: given", key)
        return self


class Profiles(Section):
    """Radial profiles about the centre in logarithmic annuli."""

    r_min: Positive = option(1.0, "inner edge of the first annulus (arcsec)")
    r_max: Positive | None = option(None, "outer edge (arcsec); null = the farthest corner")
    n: Annotated[int, Field(strict=True, ge=2)] = option(24, "number of annuli")
    slope_range: Span = option((13.0, 60.0), "radii of the slope's fit (arcsec)")
    contamination: Contamination = option(Contamination(), "contaminating sources")

    @model_validator(mode="after")
    def _check(self) -> Profiles:
        if self.r_max is not None and self.r_max <= self.r_min:
            raise mistake(
                f"{self.r_max:g} is not beyond r_min ({self.r_min:g}); give a larger one", "r_max"
            )
        if self.r_max is not None and self.slope_range[0] >= self.r_max:
            raise mistake(
                f"{list(self.slope_range)} starts beyond r_max ({self.r_max:g}); "
                "give smaller radii or a larger r_max",
                "slope_range",
            )
        return self


class Mass(Section):
    """Masses within apertures."""

    radius: Radii = option((60.0,), "radius or radii of the apertures (arcsec)")
    radius_kpc: Radii | None = option(None, "more radii, in kpc at the lens")


class Output(Section):
    """What is written beside catalogues, zarr maps and results."""

    detection: Switch = option(True, "the detection map, 4 bytes a pixel")
    fits: Switch = option(True, "FITS of the maps")
    figures: Switch = option(True, "figures (PNG)")
    report: Switch = option(True, "the HTML report (needs figures)")


class Cluster(Section):
    """Where it is computed; results do not depend on it."""

    workers: Natural = option(2, "worker processes; 0 = no cluster, in this process")
    threads: Count = option(1, "threads of each worker")
    memory: Annotated[str, BeforeValidator(_memory, json_schema_input_type=str)] = option(
        "auto", "memory limit of each worker: auto, or a size like 4GiB"
    )
    scheduler: Text | None = option(None, "address of a running scheduler; null = own workers")
    dashboard: Switch = option(False, "open Dask's dashboard on a free port")
