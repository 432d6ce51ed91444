"""Clusters start and end without tracebacks of heartbeats, lost connections and the like."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from distributed.versions import VersionMismatchWarning

log = logging.getLogger(__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Dask and its event loop log meanwhile off the screen."""
    names = ("tornado", "asyncio", "bokeh", "dask_kubernetes")
    before = {name: logging.getLogger(name).level for name in names}
    # distributed's loggers have levels of their own, but one handler.
    filters = [(h, h.level) for h in logging.getLogger("distributed").handlers]
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        for handler, _ in filters:
            handler.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            # a table over many lines; `gcdask.cluster.versions` says it in one
            warnings.simplefilter("ignore", VersionMismatchWarning)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        for handler, level in filters:
            handler.setLevel(level)


def close(resource: Any) -> None:
    """Close a client or cluster, which may be gone already; what is left behind is told."""
    try:
        with quiet(), suppress(OSError, TimeoutError):
            resource.close(timeout=20)
    except Exception as error:  # of whoever runs the cluster
        what = type(resource).__name__
        log.warning("%s did not end well (%s); see what is left of it", what, reason(error))


def reason(error: BaseException) -> str:
    """What an exception says, on one short line, without the representation of connections."""
    text = re.sub(r"\bin <[^>]*>: ", "", " ".join(str(error).split()))
    return text.split(". ")[0][:120] or type(error).__name__
