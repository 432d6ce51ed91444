"""Reading YAML strictly, and turning every mistake in it into one line (for `gcdask.config`)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from gcdask import storage
from gcdask.errors import InputError

# Far beyond any configuration: what a reader of hostile ones must not exceed.
MAX_BYTES = 1 << 18
MAX_DEPTH = 30
MAX_VALUES = 20_000

_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key may stand once, and 1e-3 is a number (YAML 1.1 says text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value == "<<" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise InputError(f"key {key.value} stands twice (line {line}); remove one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return float(text) if _FLOAT.fullmatch(text) else loader.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def parse_yaml(text: str) -> Any:
    """Value of a YAML text; raises `InputError` with the line and what is wrong there."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node, {})
        return loader.construct_document(node)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = str(error.problem or error.context or "cannot be parsed")
        if "could not determine a constructor" in what:
            tag = what.split("'")[1].removeprefix("tag:yaml.org,2002:")
            what = f"tag {tag} is not allowed; write plain values"
        else:
            what += "; correct the YAML there"
        raise InputError(one(line + what)) from None
    except Exception as error:  # a tag on a value that it does not fit raises anything
        raise InputError(f"not YAML ({one(str(error))[:120]}); correct the text") from None


def _weigh(node: yaml.Node, known: dict[int, int], depth: int = 1) -> int:
    """Values in a tree with its aliases written out; refuses one that would fill the memory."""
    line = f"line {node.start_mark.line + 1}: "
    if depth > MAX_DEPTH:
        raise InputError(f"{line}more than {MAX_DEPTH} levels deep; take brackets away")
    if id(node) in known:
        if known[id(node)] < 0:
            raise InputError(f"{line}an alias stands inside of what it names; write it out")
        return known[id(node)]
    known[id(node)] = -1
    if isinstance(node, yaml.ScalarNode):
        if not node.value.isascii() and re.search("[\ud800-\udfff]", node.value):
            raise InputError(f"{line}half a character (a surrogate); write whole ones")
        total = 1
    else:
        parts = [p for pair in node.value for p in (pair if isinstance(pair, tuple) else (pair,))]
        total = 1 + sum(_weigh(part, known, depth + 1) for part in parts)
    if total > MAX_VALUES:
        raise InputError(f"{line}aliases of more than {MAX_VALUES} values; write fewer")
    known[id(node)] = total
    return total


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file; raise `InputError` where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no configuration at {path}; give the path of a YAML file") from None
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror}); give a readable YAML file"
        ) from None
    except ValueError:  # of bytes, or of a name that no file can have
        raise InputError(f"{path} is not text; give a YAML file") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 10} KiB; give a configuration")
    try:
        raw = parse_yaml(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if raw is None:
        raise InputError(f"{path} is empty; start from one of the files in configs/")
    if not isinstance(raw, dict):
        raise InputError(f"{path} holds {show(raw)}, not KEY: VALUE pairs; see configs/")
    return raw


# -- overrides and paths ----------------------------------------------------------------------
def parse_override(text: str) -> tuple[list[str], Any]:
    """Keys and value of ``KEY.SUBKEY=VALUE``."""
    name, sign, value = text.partition("=")
    keys = name.strip().split(".")
    if not sign or not all(keys) or "://" in name:
        raise InputError(f"--set {one(text)}: not KEY.SUBKEY=VALUE; as in --set density.alpha=1.8")
    if len(keys) > MAX_DEPTH:
        raise InputError(
            f"--set {one(name)[:60]}...: more than {MAX_DEPTH} keys; there is no such key"
        )
    try:
        return keys, parse_yaml(value)
    except InputError as error:
        raise InputError(f"--set {one(name)}: {error}") from None


def apply_override(raw: dict[str, Any], keys: list[str], nested: Any, text: str) -> None:
    """Put the value at the end of ``nested`` (a tree of ``keys``) into ``raw``."""
    *sections, last = keys
    for i, key in enumerate(sections):
        nested = nested[key]
        if raw.get(key) is None:
            raw[key] = {}
        if not isinstance(raw[key], dict):
            where = ".".join(keys[: i + 1])
            raise InputError(
                f"--set {one(text)}: {where} is {show(raw[key])}, not a section; set {where} itself"
            )
        raw = raw[key]
    raw[last] = nested[last]


def is_local(path: str) -> bool:
    """Whether ``path`` is a local file: no URL, nothing that ships with the package."""
    return not storage.is_remote(path) and not path.startswith("builtin:")


def absolute(raw: Any, folder: Path, paths: Iterable[str]) -> Any:
    """Copy of a YAML tree in which local paths (at the keys ``paths``) start from ``folder``."""

    def resolve(text: str) -> str:
        if not text or not is_local(text) or text.startswith("{mosaic}"):
            return text
        text = re.sub(r"^(file|local)://", "", text)
        try:
            return str(_normal(folder / Path(text).expanduser()))
        except RuntimeError:  # ~nobody
            raise InputError(f"{text} is in the home of an unknown user; write it out") from None

    return map_paths(raw, paths, resolve)


def expand_mosaic(raw: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Copy in which ``{mosaic}`` at the start of a path is ``mosaic.path`` without its suffix."""
    mosaic = raw.get("mosaic")
    path = mosaic.get("path") if isinstance(mosaic, dict) else None

    def resolve(text: str) -> str:
        if not text.startswith("{mosaic}"):
            return text
        if not isinstance(path, str) or path.startswith("{mosaic}"):
            raise InputError(f"{text}: {{mosaic}} stands for mosaic.path, which is not given")
        stem = re.sub(r"\.(zarr|fits|fits\.gz|fits\.fz)/?$", "", storage.split_part(path)[0])
        return stem + text.removeprefix("{mosaic}")

    return map_paths(raw, paths, resolve)


def map_paths(raw: Any, paths: Iterable[str], change: Callable[[str], str]) -> Any:
    """Copy of a tree of plain values in which the texts at the keys ``paths`` are changed."""
    return _map_paths(raw, [p.split(".") for p in paths], change)


def _map_paths(value: Any, patterns: list[list[str]], change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value) if [] in patterns else value
    if not patterns or not isinstance(value, dict | list):
        return value
    items = value.items() if isinstance(value, dict) else [("*", item) for item in value]
    out = [
        (key, _map_paths(item, [p[1:] for p in patterns if p and p[0] in (key, "*")], change))
        for key, item in items
    ]
    return dict(out) if isinstance(value, dict) else [item for _, item in out]


def _normal(path: Path) -> Path:
    """``a/b/../c`` as ``a/c``, without following links (a link's own folder counts)."""
    import os.path

    return Path(os.path.normpath(path))


def fill_sections(raw: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Copy without the sections that stand empty (all keys commented out): their defaults hold."""
    out = dict(raw)
    for name, info in model.model_fields.items():
        sub = _model_of(info.annotation)
        if sub is None or name not in out:
            continue
        if out[name] is None and type(None) not in get_args(info.annotation):
            del out[name]
        elif isinstance(out[name], dict):
            out[name] = fill_sections(out[name], sub)
    return out


# -- mistakes ---------------------------------------------------------------------------------
def mistake(message: str, key: str = "") -> PydanticCustomError:
    """Error for a validator: what is wrong and the remedy, at ``key`` below where it is raised."""
    return PydanticCustomError("mistake", "{message}", {"message": message, "key": key})


def one(text: str) -> str:
    """A text on one line, without secrets, and without characters that a terminal would obey."""
    text = storage.redact(text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def show(value: Any) -> str:
    """Write a value as in YAML, on one line of at most 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = one(repr(value))
    except ValueError:  # Python does not print whole numbers of thousands of digits
        text = "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """First mistake (unknown keys before others, as they explain them) and how many follow."""
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    text = _describe(dict(errors[0]), model)
    paths = {_path(e["loc"], model) for e in errors}
    more = sum(not any(p.startswith(path + "[") for p in paths) for path in paths) - 1
    if more > 0:
        text += f" (and {more} more mistake{'s' if more > 1 else ''})"
    return one(text)


def _describe(error: dict[str, Any], model: type[BaseModel]) -> str:
    kind, ctx, value = error["type"], error.get("ctx", {}), show(error["input"])
    loc = error["loc"]
    if kind == "missing" and loc and isinstance(loc[-1], int):  # a list that is too short
        kind, loc = "too_short", loc[:-1]
    where = _path(loc[:-1] if kind == "invalid_key" else loc, model) or "top level"
    if kind == "extra_forbidden":
        return f"{where}: unknown key (value {value}); {_nearest(loc, model)}"
    if kind == "missing":
        info = _field(loc, model)
        hint = f" ({info.description})" if info is not None and info.description else ""
        return f"{where}: missing; give it{hint}"
    if kind == "mistake":
        key, message = ctx["key"], ctx["message"]
        if key:
            return f"{f'{where}.{key}' if loc else key}: {message}"
        if isinstance(error["input"], dict):
            return f"{where}: {message}" if loc else message
        return f"{where}: {value} {message}"
    return f"{where}: {value} {_remedy(kind, ctx, error['msg'])}"


def _remedy(kind: str, ctx: dict[str, Any], message: str) -> str:
    compare = {
        "greater_than": ("gt", ">"),
        "greater_than_equal": ("ge", ">="),
        "less_than": ("lt", "<"),
        "less_than_equal": ("le", "<="),
    }
    if kind in compare:
        key, sign = compare[kind]
        return f"is not {sign} {ctx[key]:g}; give a number {sign} {ctx[key]:g}"
    if kind in ("float_type", "float_parsing", "finite_number"):
        return "is not a number; give a finite number"
    if kind.startswith("int_"):
        return "is not a whole number; give one without a decimal point"
    if kind.startswith("bool_"):
        return "is neither true nor false; give one of them"
    if kind == "string_type":
        return "is not text; give text (in quotes)"
    if kind == "string_too_short":
        return "is empty; give a name or null"
    if kind == "literal_error":
        return f"is not known; use {ctx['expected']}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "is not a section; give KEY: VALUE pairs below it"
    if kind in ("tuple_type", "list_type"):
        return "is not a list; write [...]"
    if kind == "invalid_key":
        return "is a key, but not text; write it in quotes or remove it"
    if kind in ("too_short", "too_long"):
        return "has the wrong number of values; give as many as the default has"
    return f"is wrong ({message}); see gcdask config schema"


def _path(loc: tuple[Any, ...], model: type[BaseModel]) -> str:
    """Write a key's path as a user writes it: ``mask.spikes.stars[0].ra``."""
    text, current = "", model
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        if "[" in str(part) and current is not model and str(part) not in current.model_fields:
            continue  # pydantic's name of a union's member, not a key
        text += f".{part}" if text else str(part)
        current = _step(current, part) or current
    return text


def _step(model: type[BaseModel], key: Any) -> type[BaseModel] | None:
    info = model.model_fields.get(key)
    return None if info is None else _model_of(info.annotation)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Find the section in an annotation: of ``X``, ``X | None``, ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _model_of(part)
        if found is not None:
            return found
    return None


def _section(loc: tuple[Any, ...], model: type[BaseModel]) -> type[BaseModel]:
    for part in loc:
        if not isinstance(part, int):
            model = _step(model, part) or model
    return model


def _field(loc: tuple[Any, ...], model: type[BaseModel]) -> Any:
    return _section(loc[:-1], model).model_fields.get(loc[-1])


def _nearest(loc: tuple[Any, ...], model: type[BaseModel]) -> str:
    """Remedy for an unknown key: the nearest of its section, the same key elsewhere, or all."""
    key = str(loc[-1])
    known = list(_section(loc[:-1], model).model_fields)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    elsewhere = [path for path in _all_keys(model) if path.split(".")[-1] == key]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known here: {', '.join(known)}"


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        sub = _model_of(info.annotation)
        if sub is not None:
            keys += _all_keys(sub, f"{prefix}{name}.")
    return keys
