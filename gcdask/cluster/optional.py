"""Packages that only some kinds of clusters need, imported when they are used."""

from __future__ import annotations

import importlib
import signal
import threading
from types import ModuleType

from gcdask.errors import InputError


def optional(module: str, extra: str) -> ModuleType:
    """Import a module, or raise `InputError` that names the extra of gcdask it comes with."""
    main = threading.current_thread() is threading.main_thread()
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"this kind of cluster needs {module.split('.')[0].replace('_', '-')} ({error}); "
            f"pip install 'gcdask[{extra}]'"
        ) from None
    finally:
        for number, handler in before.items():  # dask_jobqueue takes Ctrl-C for itself
            signal.signal(number, handler)
