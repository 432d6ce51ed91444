"""What a run reads: images, masks, catalogues, and the field that they show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gcdask.configio import mistake
from gcdask.sections.types import (
    Angles,
    Natural,
    Number,
    Positive,
    Section,
    Sky,
    Span,
    Switch,
    Text,
    Unit,
    option,
)


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
