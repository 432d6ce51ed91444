"""Dask's performance report of a run (``--performance-report``), among the run's own files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcdask.cli.logs import log
from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

TAKEN = ("report.html",)  # what a run writes itself


def check_name(name: str) -> str:
    """Return the name of a report's file.

    Raises
    ------
    InputError
        If it is not the plain name of an HTML file, or one that a run writes itself.
    """
    plain = name.isprintable() and not name.startswith(".") and not {"/", "\\", ":"} & set(name)
    if not plain or not name.endswith(".html"):
        raise InputError(
            f"--performance-report {name} is no plain file name; it is written into the run's "
            "folder: give a name like performance.html"
        )
    if name in TAKEN:
        raise InputError(f"--performance-report {name} is a file of the run; give another name")
    return name


class Performance:
    """A report of what a client's scheduler and workers do while this context is open.

    Parameters
    ----------
    client : distributed.Client or None
        Without one there is no report, which is said.
    name : str
        Of the file.
    """

    def __init__(self, client: Client | None, name: str) -> None:
        self._client, self._name = client, name
        self._folder = tempfile.TemporaryDirectory(prefix="gcdask-")
        self._file = Path(self._folder.name, "performance.html")
        self._report: Any = None

    def __enter__(self) -> Performance:
        if self._client is None:
            log.warning("--performance-report %s: no workers, so there is none", self._name)
            return self
        from distributed import performance_report

        try:
            with self._client.as_current():
                report = performance_report(filename=str(self._file), mode="inline")
                report.__enter__()
            self._report = report
        except Exception as error:  # a report is no reason to fail a run
            self._refuse(error)
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def save(self, folder: str) -> str | None:
        """Write the report into a folder or below a URL; its path, None if there is none."""
        if self._report is None or self._client is None:
            return None
        from gcdask import storage

        path = storage.join(folder, self._name)
        try:
            with self._client.as_current():
                self._report.__exit__(None, None, None)
            # through writing, for remote outputs too; and no secret of a log of the scheduler's
            text = storage.redact(self._file.read_text(encoding="utf-8"))
            with storage.writing(path) as local:
                local.write_text(text, encoding="utf-8")
            return path
        except Exception as error:
            self._refuse(error)
            return None

    def _refuse(self, error: Exception) -> None:
        self._report = None
        missing = isinstance(error, ImportError) or "bokeh" in str(error).lower()
        remedy = "; the scheduler needs bokeh: pip install 'gcdask[dashboard]'" if missing else ""
        log.warning(
            "--performance-report %s: not written (%s: %s)%s",
            self._name, type(error).__name__, error, remedy,
        )  # fmt: skip
