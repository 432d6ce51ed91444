"""The configuration of a run: one YAML file, one section per stage, errors with the key's path.

A file is read with `load`; what it may say is in `gcdask.sections` (and in `schema`). Models are
frozen: a configuration never changes after it was checked, so that its `Config.canonical` form can
stand for it in fingerprints.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from gcdask import storage
from gcdask.configio import (
    absolute,
    apply_override,
    expand_mosaic,
    fill_sections,
    is_local,
    map_paths,
    mistake,
    one_line,
    parse_override,
    read_yaml,
)
from gcdask.errors import InputError
from gcdask.sections import (
    Catalog,
    Cluster,
    Compare,
    Density,
    Detect,
    FieldSection,
    Inpaint,
    Lens,
    Luminosity,
    Magnification,
    Mask,
    Mass,
    Mosaic,
    Noise,
    Output,
    Profiles,
    Reference,
    Section,
    Text,
    Tiles,
    option,
)

# Keys that hold paths; `*` stands for any band or list position.
PATHS = (
    "mosaic.path",
    "mosaic.bands.*",
    "mosaic.err.*",
    "mosaic.weight.*",
    "reference.path",
    "reference.bands.*",
    "reference.err.*",
    "reference.weight.*",
    "reference.mask.regions.*",
    "reference.mask.files.*",
    "catalog.path",
    "mask.regions.*",
    "mask.files.*",
    "manual",
    "truth",
    "lens.path",
    "lens.path_y",
    "lens.images",
    "lens.others.*",
    "magnification.path",
)
# Paths of files that decide no result.
BESIDE = ("cluster.scheduler_file", "cluster.tls.ca", "cluster.tls.cert", "cluster.tls.key")


class Config(Section):
    """A whole run."""

    name: Text = option("field", "name of the field in figures; null = the file's name")
    mosaic: Mosaic | None = option(None, "images (this or catalog)")
    reference: Reference | None = option(None, "images of a second field")
    catalog: Catalog | None = option(None, "a catalogue to start from (this or mosaic)")
    field: FieldSection = Field(description="cluster and cosmology")
    tiles: Tiles = option(Tiles(), "tiles")
    mask: Mask = option(Mask(), "masks")
    noise: Noise = option(Noise(), "noise map")
    detect: Detect = option(Detect(), "detection")
    manual: Text | None = option(None, "table of sources added by hand (ra, dec)")
    truth: Text | None = option(
        None,
        "truth table of a simulated mosaic (`gcdask simulate`): results say how much was found",
    )
    inpaint: Inpaint = option(Inpaint(), "inpainting")
    density: Density = option(Density(), "density map")
    lens: Lens | None = option(None, "lens model; null = no comparison")
    compare: Compare = option(Compare(), "comparison with the lens")
    profiles: Profiles = option(Profiles(), "radial profiles")
    mass: Mass = option(Mass(), "masses")
    luminosity: Luminosity | None = option(None, "luminosity function; null = none")
    magnification: Magnification | None = option(
        None, "magnifications of sources behind the lens; null = none"
    )
    output: Output = option(Output(), "what is written")
    cluster: Cluster = option(Cluster(), "workers")

    @model_validator(mode="after")
    def _check(self) -> Config:
        if (self.mosaic is None) == (self.catalog is None):
            both = self.mosaic is not None
            raise mistake(
                ("mosaic and catalog are both given" if both else "no mosaic and no catalog")
                + "; give one of them (mosaic: path: field.zarr)"
            )
        if self.reference is not None and self.mosaic is None:
            raise mistake("is given without a mosaic; remove it", "reference")
        if self.profiles.contamination.method == "reference" and self.reference is None:
            raise mistake(
                "'reference' needs a reference field; add the section reference, or use outer",
                "profiles.contamination.method",
            )
        if self.truth is not None and (self.mosaic is None or self.lens is None):
            raise mistake("needs a mosaic and a lens to compare with; remove it", "truth")
        if self.magnification is not None and self.lens is None:
            raise mistake("needs a lens; add the section lens, or remove it", "magnification")
        if self.profiles.contamination.count_slope is not None and self.lens is None:
            raise mistake("needs a lens; remove it", "profiles.contamination.count_slope")
        if self.output.report and not self.output.figures:
            raise mistake("true needs figures; set output.figures: true too", "output.report")
        return self

    def canonical(self) -> dict[str, Any]:
        """Plain dict of every key, defaults included: for fingerprints and ``run.json``."""
        return self.model_dump(mode="json")

    def deciding(self) -> dict[str, Any]:
        """What decides the results, for fingerprints: without names of files, and without how.

        What is in the files decides, wherever they are (see `gcdask.storage.state`); of a path like
        ``x.fits[SCI]``, the HDU stays, which chooses among that.
        """
        plain = map_paths(self.canonical(), PATHS, lambda path: storage.split_part(path)[1] or "")
        del plain["cluster"], plain["tiles"]["retries"]
        return plain

    def check_paths(self) -> None:
        """Raise `InputError` naming the first key whose file cannot be found, here or remote."""
        self.check_urls()
        for key, path in self.input_paths():
            if storage.is_remote(path):
                _check_remote(key, path)
            elif not os.path.exists(path):
                raise InputError(
                    f"{key}: {path} does not exist; correct it in the configuration, "
                    f"or give --set {key}=PATH"
                )

    def check_urls(self) -> None:
        """Raise `InputError` for URLs with credentials in them, or of stores that are not known."""
        from gcdask.mosaic.source import address  # slow to import, and seldom needed

        for key, path in self.input_paths():
            if storage.is_remote(path):
                try:
                    address(path)
                except InputError as error:
                    raise InputError(f"{key}: {error}") from None

    def input_paths(self) -> list[tuple[str, str]]:
        """Every ``(key, path)`` that is an input, local or a URL, without the HDU behind a path."""
        found: list[tuple[str, str]] = []
        for pattern in PATHS:
            found.extend(_values(self.canonical(), pattern.split(".")))
        return [
            (key, storage.split_part(path)[0])
            for key, path in found
            if not path.startswith("builtin:")
        ]

    def local_paths(self) -> list[tuple[str, str]]:
        """Every ``(key, path)`` of the configuration that is a local file."""
        return [(key, path) for key, path in self.input_paths() if is_local(path)]


def _check_remote(key: str, path: str) -> None:
    """Ask a store for a file or folder; a web server, which has no folders, for what is in one."""
    from gcdask.mosaic.ranges import remote_info  # slow to import, and seldom needed

    web, inside = storage.protocol(path) in ("http", "https"), ("zarr.json", "_manifest.json")
    try:
        for name in (None, *inside) if web else (None,):
            with suppress(FileNotFoundError):
                remote_info(path if name is None else storage.join(path, name), missing=False)
                return
        raise InputError(f"{path} does not exist; check the address")
    except InputError as error:
        raise InputError(f"{key}: {error}") from error


def _values(value: Any, pattern: list[str], key: str = "") -> Iterable[tuple[str, str]]:
    """All ``(key, text)`` of a plain tree at ``pattern``, whose ``*`` match anything."""
    if not pattern:
        if isinstance(value, str):
            yield key, value
        return
    first, rest = pattern[0], pattern[1:]
    if isinstance(value, dict):
        for name in value if first == "*" else [first]:
            if name in value:
                yield from _values(value[name], rest, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _values(item, rest, f"{key}[{i}]")


# -- reading ----------------------------------------------------------------------------------
def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read and check a configuration.

    Parameters
    ----------
    path : path
        YAML file. Relative paths in it start from its folder; ``{mosaic}`` at the start of a path
        stands for ``mosaic.path`` without its suffix, so that files beside a mosaic follow it.
    overrides : iterable of str
        ``KEY.SUBKEY=VALUE``, the value in YAML; relative paths start from the working directory.

    Returns
    -------
    Config

    Raises
    ------
    InputError
        For any mistake, in one line: the key's path, the value, the remedy.
    """
    path = Path(path)
    raw = fill_sections(absolute(read_yaml(path), path.absolute().parent, PATHS + BESIDE), Config)
    if raw.get("name") is None:
        raw["name"] = path.stem
    for text in overrides:
        keys, value = parse_override(text)
        nested: Any = value
        for key in reversed(keys):
            nested = {key: nested}
        apply_override(raw, keys, absolute(nested, Path.cwd(), PATHS + BESIDE), text)
    raw = expand_mosaic(fill_sections(raw, Config), PATHS)
    try:
        found = Config.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{path}: {one_line(error, Config)}") from None
    found.check_urls()
    return found


def schema() -> dict[str, Any]:
    """JSON schema of a configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(mode="validation"),
        "title": "gcdask configuration",
    }
