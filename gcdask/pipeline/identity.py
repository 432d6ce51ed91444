"""What decides a result, as a short hash: of settings, of inputs, of pixels."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from gcdask import storage
from gcdask._version import __version__

if TYPE_CHECKING:
    from gcdask.config import Config


def identify(config: Config) -> dict[str, Any]:
    """Everything that decides a run's results: ``config``, ``inputs`` and their ``fingerprint``.

    Raises
    ------
    InputError
        If a store refuses to say what it holds.
    """
    inputs = {key: storage.state(path) for key, path in config.input_paths()}
    fingerprint = digest([config.deciding(), inputs, __version__])
    return {"fingerprint": fingerprint, "config": config.canonical(), "inputs": inputs}


def digest(content: Any) -> str:
    """Short hash of anything that JSON can hold (see `plain`)."""
    text = json.dumps(plain(content), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def pixel_digest(*arrays: np.ndarray) -> str:
    """Short hash of the bits of arrays; 2 ns a pixel of float32."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.shape}{array.dtype}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()[:20]


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
    return value if isinstance(value, str | int | float | bool | None) else str(value)
