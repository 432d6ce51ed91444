"""Packages that only some kinds of clusters need, imported when they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from gcdask.errors import InputError


def optional(module: str, extra: str) -> ModuleType:
    """Import a module, or raise `InputError` that names the extra of gcdask it comes with."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"this kind of cluster needs {module.split('.')[0].replace('_', '-')} ({error}); "
            f"pip install 'gcdask[{extra}]'"
        ) from None
