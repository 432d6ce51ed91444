"""The output folder of a run: who owns it, what in it is valid, and how files get into it.

A run claims its folder by writing ``run.json`` first and says what is valid by writing
``manifest.json`` last. Each finished tile leaves a small JSON row, written after its map shard and
its Parquet part: a run that was killed resumes from these rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gcdask._version import __version__
from gcdask.errors import InputError

RUN, MANIFEST, WORK = "run.json", "manifest.json", "work"
INPUT = "input"  # a folder of this name may lie beside the outputs; it is never touched


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write JSON (NaN as null) so that readers see the old file or the new one, never a half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:  # thousands of plain numbers: nothing to unpack
        text = json.dumps(content, indent=indent, allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps(plain(content), indent=indent, allow_nan=False)
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Content of a JSON file, None where it is missing or was cut off."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: NumPy scalars and arrays unpacked, NaN and infinity None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def digest(content: Any) -> str:
    """Short hash of anything that JSON can hold."""
    text = json.dumps(plain(content), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def input_state(path: str | Path) -> dict[str, Any]:
    """Size and time of an input file, or of every file of a folder (zarr, Parquet)."""
    p = Path(path)
    if not p.exists():
        return {"path": str(path)}
    if p.is_dir():
        files = sorted(q for q in p.rglob("*") if q.is_file())
        stats = [(str(q.relative_to(p)), *_state(q)) for q in files]
        return {"path": str(path), "files": len(files), "content": digest(stats)}
    size, time_ns = _state(p)
    return {"path": str(path), "bytes": size, "mtime_ns": time_ns}


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def check(
    out: Path, fingerprint: str, inputs: Iterable[tuple[str, str]] = (), *, force: bool
) -> bool:
    """Whether ``out`` holds a run already, of this ``fingerprint`` or to be replaced by ``force``.

    ``inputs`` are the ``(key, path)`` of the run's input files, which must lie elsewhere (or in a
    folder `INPUT` of ``out``): a run writes over what it wrote before.

    Raises
    ------
    InputError
        If ``out`` holds something else, a run of another configuration (and not ``force``), or
        the run's own input.
    """
    for key, path in inputs:
        given, own = Path(path).resolve(), out.resolve()
        if given.is_relative_to(own) and not given.is_relative_to(own / INPUT):
            raise InputError(
                f"{key}: {path} lies in the output folder {out}, where it would be overwritten; "
                "choose another --out"
            )
    try:
        if not out.exists():
            return False
        if not out.is_dir():
            raise InputError(f"output folder {out} is a file; choose another --out")
        content = [p for p in out.iterdir() if p.name != INPUT and not p.name.startswith(".")]
        owner = read_json(out / RUN)
    except OSError as error:
        raise unwritable(out, error) from error
    if owner is None and content:
        raise InputError(
            f"output folder {out} is not empty and holds no gcdask run "
            f"(found {content[0].name}); choose another --out"
        )
    if owner is not None and owner.get("fingerprint") != fingerprint and not force:
        raise InputError(
            f"output folder {out} holds a run of another configuration or input "
            f"(fingerprint {owner.get('fingerprint')}, this one {fingerprint}); "
            "choose another --out, or --force to start anew"
        )
    return owner is not None


def prepare(
    out: Path, fingerprint: str, inputs: Iterable[tuple[str, str]] = (), *, force: bool
) -> None:
    """Make the folder if there is none; raises `InputError` as `claim` would."""
    check(out, fingerprint, inputs, force=force)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error


def claim(
    out: Path,
    fingerprint: str,
    record: dict[str, Any],
    inputs: Iterable[tuple[str, str]] = (),
    *,
    force: bool,
) -> bool:
    """Make ``out`` this run's folder; True if it continues or repeats the same run.

    Raises
    ------
    InputError
        As `check`, or if ``out`` cannot be written.
    """
    again = check(out, fingerprint, inputs, force=force)
    try:
        if again and force:
            clear(out)
        # what is there is written again, file by file: it is valid when all of it is
        (out / MANIFEST).unlink(missing_ok=True)
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        head = {"fingerprint": fingerprint, "status": "running", "started": started}
        write_json(out / RUN, {**head, "version": __version__, **record})
    except OSError as error:
        raise unwritable(out, error) from error
    return again and not force


def unwritable(out: Path, error: OSError) -> InputError:
    """The error of an output folder that the system does not let us use."""
    reason = error.strerror or type(error).__name__
    return InputError(
        f"output folder {out} cannot be written ({reason}); "
        "choose another --out, or free space or permissions there"
    )


def clear(out: Path) -> None:
    """Remove what a run wrote into its folder (the folder, and what else is in it, stay)."""
    for name in OUTPUTS:
        for path in out.glob(name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    figures = out / FIGURES
    if figures.is_dir() and not any(figures.iterdir()):
        figures.rmdir()


FIGURES = "figures"
#: Names of the figures.
SHOWN = (
    "detection", "threshold", "sources", "relation", "density", "scatter", "mask", "reference",
    "profiles",
)  # fmt: skip
#: What a run writes into its folder; `clear` removes nothing else, and who owns it last.
OUTPUTS = (
    MANIFEST,
    WORK,
    "catalog.parquet",
    "inpainted.parquet",
    "reference.parquet",
    "maps.zarr",
    "detection.fits",
    "mask.fits",
    "density.fits",
    "density_*.fits",
    "kappa.fits",
    "reference_*.fits",
    "results.json",
    "profiles.ecsv",
    "boxes.ecsv",
    *(f"{FIGURES}/{name}.png" for name in SHOWN),
    "report.html",
    RUN,
)


def finish(out: Path, record: dict[str, Any]) -> None:
    """Complete ``run.json`` and write the manifest, last: from now on the outputs are valid."""
    run = read_json(out / RUN) or {}
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run |= {**record, "status": "done", "finished": finished}
    write_json(out / RUN, run)
    present = sorted(
        str(p.relative_to(out))
        for name in OUTPUTS
        for p in out.glob(name)
        if p.name not in (MANIFEST, WORK)
    )
    write_json(out / MANIFEST, {"fingerprint": run["fingerprint"], "outputs": present})


def is_valid(out: Path) -> bool:
    """Whether ``out`` holds a finished run."""
    return read_json(out / MANIFEST) is not None
