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
from pathlib import Path
from typing import Any

import numpy as np

from gcdask._version import __version__
from gcdask.errors import InputError

RUN, MANIFEST, WORK = "run.json", "manifest.json", "work"
INPUT = "input"  # a folder of this name may lie beside the outputs; it is never touched


def write_json(path: Path, content: Any) -> None:
    """Write JSON (NaN as null) so that readers see the old file or the new one, never a half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n")
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
    """Size and time of an input file, or of the metadata of a folder (zarr, Parquet)."""
    p = Path(path)
    if not p.exists():
        return {"path": str(path)}
    if p.is_dir():
        marks = [q for q in sorted(p.rglob("*.json")) if q.is_file()]
        stats = [(q.name, q.stat().st_size, q.stat().st_mtime_ns) for q in marks]
        return {"path": str(path), "metadata": digest(stats)}
    stat = p.stat()
    return {"path": str(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def claim(out: Path, fingerprint: str, record: dict[str, Any], *, force: bool) -> bool:
    """Make ``out`` this run's folder; True if it continues or repeats the same run.

    Raises
    ------
    InputError
        If ``out`` holds something else, or a run of another configuration (and not ``force``),
        or cannot be written.
    """
    if out.is_file():
        raise InputError(f"output folder {out} is a file; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        content = [p for p in out.iterdir() if p.name != INPUT and not p.name.startswith(".")]
        owner = read_json(out / RUN)
        same = owner is not None and owner.get("fingerprint") == fingerprint
        if content and owner is None:
            raise InputError(
                f"output folder {out} is not empty and holds no gcdask run "
                f"(found {content[0].name}); choose another --out"
            )
        if owner is not None and not same and not force:
            raise InputError(
                f"output folder {out} holds a run of another configuration or input "
                f"(fingerprint {owner.get('fingerprint')}, this one {fingerprint}); "
                "choose another --out, or --force to start anew"
            )
        if owner is not None and force:
            clear(out)
            same = False
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        head = {"fingerprint": fingerprint, "status": "running", "started": started}
        write_json(out / RUN, {**head, "version": __version__, **record})
    except PermissionError as error:
        raise InputError(
            f"no permission to write in {out} ({error.strerror}); choose another --out"
        ) from error
    return same


def clear(out: Path) -> None:
    """Remove what a run wrote into its folder (the folder itself stays)."""
    for name in OUTPUTS:
        for path in out.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


#: What a run writes at the top of its folder; `clear` removes nothing else.
OUTPUTS = (
    RUN,
    MANIFEST,
    WORK,
    "catalog.parquet",
    "inpainted.parquet",
    "reference.parquet",
    "maps.zarr",
    "*.fits",
    "results.json",
    "profiles.ecsv",
    "boxes.ecsv",
    "figures",
    "report.html",
)


def finish(out: Path, record: dict[str, Any]) -> None:
    """Complete ``run.json`` and write the manifest, last: from now on the outputs are valid."""
    run = read_json(out / RUN) or {}
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run |= {**record, "status": "done", "finished": finished}
    write_json(out / RUN, run)
    present = sorted(
        p.name for name in OUTPUTS for p in out.glob(name) if p.name not in (MANIFEST, WORK)
    )
    write_json(out / MANIFEST, {"fingerprint": run["fingerprint"], "outputs": present})


def is_valid(out: Path) -> bool:
    """Whether ``out`` holds a finished run."""
    return read_json(out / MANIFEST) is not None
