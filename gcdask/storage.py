"""Files on any store, a local disk or an fsspec URL, through the same few functions.

A file is written whole or not at all: under another name and then renamed on a disk, in one put on
an object store (where a rename is a copy, and not atomic). Credentials come from the environment
alone; they are never part of a path, and `redact` keeps them out of what we say.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from gcdask.errors import GcdaskError, InputError

#: Packages of the protocols that need one, and our extra that brings it.
NEEDS = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "http": ("aiohttp", "http"),
    "https": ("aiohttp", "http"),
}
#: An outage must not hold a run for minutes; what other processes write must be seen.
_FRESH: dict[str, Any] = {"use_listings_cache": False}
_S3 = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3}}
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {**_FRESH, "config_kwargs": _S3},
    "gs": _FRESH,
    "http": _FRESH,
    "https": _FRESH,
}
SMALL = 2**24  # bytes of a file that is known by its content rather than its time
SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|ACCESS_KEY|API_KEY|CREDENTIAL", re.IGNORECASE)
_SECRET_QUERY = re.compile(
    r"([?&][^=&#]*(?:sig|token|secret|key|credential)[^=&#]*=)[^&#\s]+", re.I
)
_NO_BUCKET = re.compile("specified bucket|NoSuchBucket")
# a user before the host; or a secret with a slash in it, which seems to end a host as a port does
_USER = re.compile(r"(\w://)(?:[^/@\s]+|[^/@\s]*:(?!\d+(?:/|$))[^@\s]*)@")


# -- paths ---------------------------------------------------------------------------------------
def is_remote(path: Any) -> bool:
    """Whether a path is a URL of another store than the local disk."""
    text = str(path)
    return "://" in text and not text.startswith(("file://", "local://"))


def protocol(path: Any) -> str:
    """``s3`` of ``s3://bucket/key``; ``file`` for a local path."""
    return str(path).split("://", 1)[0].lower() if is_remote(path) else "file"


def join(base: Any, *names: str) -> str:
    """Path of something in a folder or below a URL."""
    return "/".join([str(base).rstrip("/"), *names]) if is_remote(base) else str(Path(base, *names))


def basename(path: Any) -> str:
    """Last name of a path or URL."""
    return str(path).rstrip("/").rsplit("/", 1)[-1]


def is_name(name: Any) -> bool:
    """Whether a value, read from a file, names something in a folder and leads nowhere else."""
    return isinstance(name, str) and re.fullmatch(r"[\w\-]+(\.[\w\-]+)*", name) is not None


def split_part(path: Any) -> tuple[str, str | None]:
    """Split ``x.fits[SCI]`` into the file and what is meant of it; None, if that is all of it.

    A local file of that very name is meant as a whole.
    """
    text = str(path)
    found = re.fullmatch(r"(.+)\[([^\[\]]+)\]", text)
    if found is None or (not is_remote(text) and os.path.exists(text)):
        return text, None
    return found[1], found[2]


def options(path: Any) -> dict[str, Any]:
    """Options of the file system of a path, as fsspec and zarr take them."""
    return OPTIONS.get(protocol(path), {})


def filesystem(path: Any) -> tuple[fsspec.AbstractFileSystem, str]:
    """Find the file system of a path or URL, and the path on it.

    Raises
    ------
    InputError
        For a protocol that is not known, or whose package is not installed.
    """
    try:
        fs, root = fsspec.core.url_to_fs(str(path), **options(path))
    except (ImportError, ValueError) as error:
        raise InputError(f"{redact(str(path))} {_what(error, path)}") from error
    return fs, root.rstrip("/") or root


def check_url(path: str, key: str = "") -> None:
    """Raise `InputError` if credentials stand in a URL: they would be stored with a run."""
    if not is_remote(path):
        return
    try:
        query = urlsplit(path).query
    except ValueError as error:
        where = f"{key}: {redact(path)}" if key else redact(path)
        raise InputError(f"{where} is no address ({error}); correct it") from None
    if _USER.search(path) or _SECRET_QUERY.search(f"?{query}"):
        raise InputError(
            f"{f'{key}: ' if key else ''}{redact(path)} holds credentials; take them out of the "
            "address and give them in the environment (AWS_ACCESS_KEY_ID, ...)"
        )


def redact(text: str) -> str:
    """Hide passwords and signatures of URLs, and whatever is secret in our environment."""
    text = _SECRET_QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
    for name, value in os.environ.items():
        if len(value) >= 8 and value in text and SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text


# -- reading -------------------------------------------------------------------------------------
def exists(path: Any) -> bool:
    """Whether there is a file or folder."""
    if not is_remote(path):
        return os.path.exists(path)
    with told(path):
        fs, root = filesystem(path)
        if protocol(path) in ("http", "https"):  # its own way to ask begins to fetch the file
            with suppress(FileNotFoundError):
                return bool(fs.info(root))
            return False
        return bool(fs.exists(root))


def size(path: Any) -> int | None:
    """Bytes of a file; None if there is none."""
    try:
        if not is_remote(path):
            return os.path.getsize(path)
        with told(path, missing=False):
            fs, root = filesystem(path)
            return int(fs.size(root))
    except FileNotFoundError:
        return None


def check_regular(path: Any) -> None:
    """Raise `InputError` for a local device or pipe, which may never end, nor begin."""
    if is_remote(path) or not os.path.exists(path):
        return
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path} is no regular file, but a device or pipe; give a file")


def read_bytes(path: Any) -> bytes:
    """Content of a file; raises FileNotFoundError, or `InputError` for what the store refuses."""
    if not is_remote(path):
        check_regular(path)
        return Path(path).read_bytes()
    with told(path, missing=False):
        fs, root = filesystem(path)
        return bytes(fs.cat_file(root))


def read_json(path: Any) -> Any:
    """Content of a JSON file, None where it is missing or was cut off."""
    try:
        return json.loads(read_bytes(path))
    except (FileNotFoundError, ValueError) as error:
        if isinstance(error, GcdaskError):
            raise
        return None


def names(folder: Any) -> list[str]:
    """Names in a folder, sorted; none if there is no such folder."""
    try:
        if not is_remote(folder):
            return sorted(os.listdir(folder))
        with told(folder, missing=False):
            fs, root = filesystem(folder)
            found = {basename(name) for name in fs.ls(root, detail=False)}
            return sorted(found - {basename(root)} if fs.isfile(root) else found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def find(folder: Any) -> dict[str, str]:
    """Every file below a folder: its relative path, and its size with its time or ETag."""
    if not is_remote(folder):
        out = {}
        for parent, _, files in os.walk(folder):
            for name in files:
                full = os.path.join(parent, name)
                stat = os.stat(full)
                out[os.path.relpath(full, folder)] = f"{stat.st_size}-{stat.st_mtime_ns}"
        return out
    with told(folder):
        fs, root = filesystem(folder)
        found = fs.find(root, detail=True)
    start = len(fs._strip_protocol(root).rstrip("/")) + 1
    return {name[start:]: stamp(info) for name, info in found.items() if name[start:]}


def stamp(info: dict[str, Any]) -> str:
    """Size of a remote file with what its store says of its content or its time of change."""
    for key in ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "mtime", "created"):
        if info.get(key):
            return f"{info.get('size')}-{info[key]}"
    return f"{info.get('size')}"


def state(path: Any) -> dict[str, Any]:
    """Identity of what an input holds, wherever it is; empty where there is nothing.

    Small local files are known by their content, larger ones by size and time, those of other
    stores by what the store says of them (ETag), folders (zarr, Parquet) by all of their files,
    and a part like ``x.fits[SCI]`` by its file and its name.
    """
    path, part = split_part(path)
    if part is not None:
        whole = state(path)
        return {**whole, "part": part} if whole else {}
    if is_remote(path):
        with told(path, missing=False), suppress(FileNotFoundError):
            fs, root = filesystem(path)
            info = fs.info(root)
            if info.get("type") != "directory":
                return {"stamp": stamp(info)}
    elif os.path.isfile(path):
        stat = os.stat(path)
        if stat.st_size > SMALL:
            return {"stamp": f"{stat.st_size}-{stat.st_mtime_ns}"}
        return {"stamp": f"{stat.st_size}-{_digest(Path(path).read_bytes())}"}
    files = find(path)
    if not files:
        return {}
    return {"files": len(files), "content": _digest(json.dumps(sorted(files.items())).encode())}


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=10).hexdigest()


# -- writing -------------------------------------------------------------------------------------
def make_folder(path: Any) -> None:
    """Make a folder and those above it; nothing on an object store, which has none."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def write_bytes(path: Any, data: bytes, *, exclusive: bool = False) -> None:
    """Write a file: readers see the old one or the new one, never a half.

    Raises
    ------
    FileExistsError
        With ``exclusive``, if there is one. (On a store without conditional puts two that write in
        the same instant may both succeed.)
    InputError, OSError
        If the store refuses it.
    """
    if is_remote(path):
        with told(path, missing=False):
            fs, root = filesystem(path)
            if exclusive:
                _create(fs, root, data)
            else:
                fs.pipe_file(root, data)
        return
    make_folder(Path(path).parent)
    if exclusive:
        with open(path, "xb") as file:
            file.write(data)
        return
    with writing(path) as local:
        local.write_bytes(data)


def _create(fs: fsspec.AbstractFileSystem, root: str, data: bytes) -> None:
    if fs.exists(root):
        raise FileExistsError(errno.EEXIST, "exists", root)
    try:
        fs.pipe_file(root, data, mode="create")
    except (TypeError, NotImplementedError):
        fs.pipe_file(root, data)


def write_json(path: Any, content: Any, indent: int | None = 2) -> None:
    """Write a plain tree as JSON, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=indent, allow_nan=False) + "\n").encode())


@contextmanager
def writing(path: Any) -> Iterator[Path]:
    """Open a local path to write to; it appears under ``path`` at the end, if all went well."""
    name = basename(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="gcdask-") as folder:
            local = Path(folder, name)
            yield local
            with told(path):
                fs, root = filesystem(path)
                fs.put_file(str(local), root)
        return
    temporary = Path(path).with_name(f".{uuid.uuid4().hex[:8]}-{name}")  # formats go by the suffix
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link(source: Any, target: Any) -> None:
    """Have a file under another name of the same store too: no copy where the disk can do it."""
    if is_remote(target):
        with told(source):
            fs, root = filesystem(source)
            fs.cp_file(root, filesystem(target)[1])
        return
    make_folder(Path(target).parent)
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links, or one that has too many of this file
        with writing(target) as local:
            shutil.copy2(source, local)


def link_tree(source: Any, target: Any) -> None:
    """`link` every file of a folder (or the one file)."""
    files = find(source)
    if not files:
        link(source, target)
    for name in files:
        link(join(source, name), join(target, name))


def remove(path: Any) -> None:
    """Remove a file, or a folder with all that is in it; nothing if it is not there."""
    if is_remote(path):
        with told(path, missing=False), suppress(FileNotFoundError):
            fs, root = filesystem(path)
            fs.rm(root, recursive=True)
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


@contextmanager
def folder(path: Any) -> Iterator[Path]:
    """Open a local folder to write to, whose files appear in ``path`` (at the end, if remote)."""
    if not is_remote(path):
        make_folder(path)
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="gcdask-") as temporary:
        yield Path(temporary)
        for name in find(temporary):
            write_bytes(join(path, name), Path(temporary, name).read_bytes())


# -- errors --------------------------------------------------------------------------------------
@contextmanager
def told(path: Any, *, missing: bool = True) -> Iterator[None]:
    """Turn what a store says into one line about ``path``.

    Raises
    ------
    InputError
        For a path that is not there (if ``missing``; else FileNotFoundError goes through), that
        the store refuses, or a store that cannot be reached.
    """
    try:
        yield
    except (GcdaskError, MemoryError):
        raise
    except FileNotFoundError as error:
        if not missing and not _NO_BUCKET.search(str(error)):
            raise
        raise InputError(f"{redact(str(path))} {_what(error, path)}") from error
    except FileExistsError:
        raise
    except Exception as error:
        what = _what(error, path)
        if not what:
            raise
        raise InputError(f"{redact(str(path))} {what}") from error


def _what(error: BaseException, path: Any) -> str:
    """What an error of a store means, and what to do; empty if that is not known."""
    kind = " ".join(base.__name__ for base in type(error).__mro__)
    said = redact(" ".join(str(error).split()))[:100]
    package, extra = NEEDS.get(protocol(path), ("", ""))
    if isinstance(error, ImportError):
        return f"needs the package {package or said}; pip install 'gcdask[{extra or 'all'}]'"
    if "Protocol not known" in str(error):
        return f"is on an unknown kind of store; give a local path or one of {', '.join(NEEDS)}://"
    if isinstance(error, FileNotFoundError):
        if _NO_BUCKET.search(str(error)):
            return "is in a bucket that does not exist; check the address"
        return "does not exist; check the address"
    if isinstance(error, PermissionError) or "Credential" in kind or "Forbidden" in str(error):
        where = "in the environment (AWS_ACCESS_KEY_ID, ...)" if is_remote(path) else "to it"
        return f"is refused ({said or 'no access'}); give credentials or rights {where}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot be written ({error.strerror}); free space there, then run again"
    if re.search("Connect|Timeout|Endpoint|ServerDisconnected", kind):
        return f"cannot be reached ({said or kind.split()[0]}); check the address and the network"
    if is_remote(path) and (isinstance(error, OSError) or re.search("BotoCore|ClientError", kind)):
        return f"cannot be used ({said or kind.split()[0]}); check the address"
    return ""
