"""The text format of Lenstool's parameter files: sections of keywords, French or English."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gcdask import storage
from gcdask.errors import InputError
from gcdask.mosaic.source import address

_ENGLISH = {
    "profil": "profile",
    "ellipticite": "ellipticity",
    "x_center": "x_centre",
    "y_center": "y_centre",
}

# sections whose matter would be missing from the sum if they were passed over
_UNSUPPORTED = {
    "potfile": "a catalogue of galaxies to be scaled",
    "multiscale": "a multiscale grid",
}


@dataclass
class Section:
    """A section of a parameter file.

    Attributes
    ----------
    kind : str
        First word, in lower case.
    name : str
        Second word, empty if there is none.
    line : int
        Its line number, from 1.
    values : dict
        Keyword (English, lower case) -> (line number, words after it).
    path : str
        The file, for messages.
    """

    kind: str
    name: str
    line: int
    path: str
    values: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.kind} {self.name}".strip()

    def number(self, key: str, default: float | None = None) -> float:
        """First value of a keyword.

        Raises
        ------
        InputError
            If it is missing and there is no default, or is not a finite number.
        """
        if key not in self.values:
            if default is not None:
                return default
            raise InputError(
                f"{self.path}, line {self.line}: {self.label} has no {key}; add it to the file"
            )
        line, words = self.values[key]
        try:
            value = float(words[0])
        except (ValueError, IndexError):
            value = np.nan
        if not np.isfinite(value):
            raise InputError(
                f"{self.path}, line {line}: {key} of {self.label} is "
                f"{' '.join(words)!r}, not a number; mend the line"
            )
        return value


def read_sections(path: Any) -> list[Section]:
    """Sections of a parameter file in its order.

    Raises
    ------
    InputError
        If the file cannot be read, is not text, is cut off (a section without ``end``, no
        ``fini`` or ``finish`` at the end), or has galaxies in a ``potfile``, which only
        Lenstool itself can expand.
    """
    path, sections, current, finished = str(path), [], None, False
    for number, raw in enumerate(read_lines(path, "a Lenstool .par file"), 1):
        words = raw.split("#")[0].split()
        if not words:
            continue
        key = words[0].lower()
        if key.startswith("fini") or (current and key.startswith("potent")):
            if current is not None:
                raise InputError(
                    f"{path}, line {number}: {current.label}, which begins on line "
                    f"{current.line}, has no end; add it or get the whole file"
                )
            finished = True
            break
        if current is None:
            current = Section(key, words[1] if len(words) > 1 else "", number, path)
            if key in _UNSUPPORTED:
                raise InputError(
                    f"{path}, line {number}: section {key} ({_UNSUPPORTED[key]}) cannot be "
                    "read; give the best.par that Lenstool writes, which lists every potential"
                )
        elif key == "end":
            sections.append(current)
            current = None
        else:
            current.values.setdefault(_ENGLISH.get(key, key), (number, words[1:]))
    if current is not None or not finished:
        where = f"inside {current.label} (line {current.line})" if current else "without fini"
        raise InputError(f"{path} ends {where}: the file is cut off or not Lenstool's; get it anew")
    return sections


def read_lines(path: Any, what: str) -> list[str]:
    """Lines of a text file; `InputError` if it cannot be read or has bytes that text has not.

    ``what`` says in the message which file is wanted.
    """
    path = address(path)
    try:
        with storage.told(path, missing=storage.is_remote(path)), _opened(path) as file:
            head = file.read(4096)
            text = head if _binary(head) else head + file.read()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}); check the path") from None
    if _binary(text):
        raise InputError(f"{path} is not a text file; give {what}")
    try:
        return text.decode("utf-8").splitlines()
    except UnicodeDecodeError:  # accents in old French comments
        return text.decode("latin-1").splitlines()


def _opened(path: str) -> Any:
    if not storage.is_remote(path):
        storage.check_regular(path)
        return open(path, "rb")
    fs, root = storage.filesystem(path)
    return fs.open(root, "rb")


def _binary(data: bytes) -> bool:
    return bool(set(data) & (set(range(32)) - set(b"\t\n\r\f\v\x1a")))


def format_sections(sections: list[tuple[str, list[tuple[str, Any]]]]) -> str:
    """Text of a parameter file; floats are written so that they are read back exactly."""
    lines: list[str] = []
    for title, pairs in sections:
        lines.append(title)
        for key, value in pairs:
            text = repr(float(value)) if isinstance(value, float) else str(value)
            lines.append(f"\t{key:<16} {text}")
        lines.append("\tend")
    return "\n".join([*lines, "fini", ""])


def write_text(path: Any, text: str) -> None:
    """Write a small text file.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written to.
    """
    try:
        if storage.is_remote(path):
            storage.write_bytes(path, text.encode())
        else:
            Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); check the path") from None
