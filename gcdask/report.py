"""The report of a run: one HTML file with everything in it, to read, print and send.

Images are embedded, styles are inline and nothing is loaded from anywhere; every text that comes
from the user or the data is escaped, and secrets of our environment are left out of it. Sections
that a run has no numbers for are left out.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup, escape

from gcdask import storage
from gcdask.errors import InputError
from gcdask.headings import FRACTIONS, HEADLINES, LABELS, SECTIONS

TEMPLATES = Path(__file__).parent / "data"
DASH = "–"

LISTED = 200  # failed tiles
#: Characters that are no text: control codes, and those that turn the direction of reading.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
URL = re.compile(r"https?://[^\s,;<>\"'`\\]+", re.IGNORECASE)
SUPERSCRIPT = str.maketrans("-0123456789.", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹·")


@dataclass(frozen=True)
class Figure:
    """An image (PNG file) of the report, its title and the caption below it."""

    path: Path | str
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text below a head; ``bars`` are lengths (0 to 1) drawn behind the last column."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[float] = ()


def write_report(
    path: Any,
    *,
    title: str,
    results: Mapping[str, Any],
    run: Mapping[str, Any] | None = None,
    figures: Iterable[Figure] = (),
    notes: Iterable[str] = (),
) -> Any:
    """Write the report of a run.

    Parameters
    ----------
    path : path or URL
        HTML file; it appears whole or not at all.
    title : str
        Name of the field.
    results : mapping
        The content of ``results.json``: nested numbers, ``units`` (dotted key to unit). An entry
        ``k_error`` beside ``k`` is its error. Everything is optional.
    run : mapping, optional
        The content of ``run.json``: ``config`` (shown as YAML), ``run`` (its identity), versions,
        inputs, timings, ``stages``; ``failed`` are the tiles that failed (``field``, ``tile``,
        ``reason``; without it those of ``stages``), which are listed.
    figures : iterable of Figure
        In the order of the report. A file that is missing becomes a note.
    notes : iterable of str
        Warnings, shown at the top.

    Returns
    -------
    path or URL
        As given.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    notes = list(notes)
    images = []
    for figure in figures:
        try:
            data = base64.b64encode(Path(figure.path).read_bytes()).decode()
        except OSError:
            notes.append(f"The figure “{figure.title}” is missing ({figure.path}).")
            continue
        images.append({"title": figure.title, "caption": figure.caption, "data": data})
    html = render(title=title, results=results, run=run or {}, images=images, notes=notes)
    try:
        with storage.writing(path) as local:
            local.write_text(html, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); choose another folder") from error
    return path


def render(
    *,
    title: str,
    results: Mapping[str, Any],
    run: Mapping[str, Any],
    images: Sequence[Mapping[str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """HTML of a report; ``images`` hold ``title``, ``caption`` and base64 ``data``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    environment.filters["linked"] = linked
    failed = _failed(run)
    config, provenance = _provenance(run)
    return environment.get_template("report.html.j2").render(
        title=title,
        headlines=headlines(results),
        sections=list(sections(results)),
        images=images,
        notes=notes,
        config=config,
        provenance=provenance,
        failed=_failed_table(failed) if failed else None,
        n_failed=len(failed),
        run=str(run.get("run") or ""),
        version=str(run.get("version", "")),
        finished=str(run.get("finished", "")),
    )


def _visible(value: Any) -> Any:
    """What an expression of the template gives, without secrets and what is no text."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return UNSEEN.sub("\N{REPLACEMENT CHARACTER}", storage.redact(value))
    return value


def linked(text: Any) -> Markup:
    """Escaped text whose http and https addresses are links; no other scheme ever is."""
    text = str(_visible(str(text)))
    out, end = Markup(), 0
    for found in URL.finditer(text):
        address = escape(found[0])
        link = Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>').format(address)
        out += escape(text[end : found.start()]) + link
        end = found.end()
    return out + escape(text[end:])


# -- results to tables --------------------------------------------------------------------------
def headlines(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(number with error and unit, label) of the summary, for the numbers that are there."""
    units = results.get("units") or {}
    out = []
    for key, label in HEADLINES:
        value = _find(results, key)
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            continue
        if not math.isfinite(value):
            continue
        for name in re.findall(r"\{(.*?)\}", label):
            label = label.replace(f"{{{name}}}", _entry(results, name, units))
        out.append((_entry(results, key, units), label))
    return out


def sections(results: Mapping[str, Any]) -> Iterable[tuple[str, list[Table]]]:
    """Titles and tables of the results that are there; unknown entries come last."""
    units = results.get("units") or {}
    shares = results.get("mask_shares")
    if isinstance(shares, Mapping) and shares:
        yield "Mask", list(_mask_tables(shares))
    known = {key for _, key in SECTIONS} | {"units", "mask_shares"}
    more = [
        (key.replace("_", " ").capitalize(), key)
        for key, value in results.items()
        if key not in known and isinstance(value, Mapping)
    ]
    for title, key in [*SECTIONS, *more]:
        value = results.get(key)
        if isinstance(value, Mapping) and value:
            tables = list(_tables(key, value, units))
            if tables:
                yield title, tables
    shown = {"name", *(key for key, _ in HEADLINES)}
    loose = {
        k: v
        for k, v in results.items()
        if not isinstance(v, Mapping | None) and k not in known and k not in shown
    }
    if loose:
        yield "More", list(_tables("", loose, units))


def _tables(prefix: str, tree: Mapping[str, Any], units: Mapping[str, str]) -> Iterable[Table]:
    """Table of the plain entries of a section, then one for each of its nested ones."""
    rows = []
    nested: list[Table] = []
    if "sectors" in tree and isinstance(tree["sectors"], Mapping):
        nested.append(_sector_table(prefix, tree, units))
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else key
        if key in ("sectors", "sector_errors", "unit") or _is_error(key, tree):
            continue
        if isinstance(value, Mapping):
            nested += [
                Table(f"{_label(key)}: {t.title}" if t.title else _label(key), t.head, t.rows)
                for t in _tables(name, value, units)
            ]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            nested.append(_list_table(prefix, key, value, units))
        else:
            rows.append((_label(key, name), _entry(tree, key, units, name)))
    if rows:
        yield Table("", (), rows)
    yield from nested


def _sector_table(prefix: str, tree: Mapping[str, Any], units: Mapping[str, str]) -> Table:
    sectors, errors = tree["sectors"], tree.get("sector_errors") or {}
    unit = units.get(f"{prefix}.sectors") or units.get(f"{prefix}.value", "")
    values = [v for v in sectors.values() if isinstance(v, int | float) and math.isfinite(v)]
    mean = sum(values) / len(values) if values else math.nan
    rows = []
    for name, value in sectors.items():
        good = isinstance(value, int | float) and math.isfinite(value) and mean
        off = f"{100 * (value / mean - 1):+.1f} %".replace("-", "−") if good else DASH
        rows.append((str(name), quantity(value, errors.get(name), unit), off))
    return Table("By sector", ("sector", "β", "from their mean"), rows)


def _list_table(
    prefix: str, key: str, items: Sequence[Mapping[str, Any]], units: Mapping[str, str]
) -> Table:
    names = [k for k in items[0] if not _is_error(k, items[0])]
    unit = {k: units.get(f"{prefix}.{key}.{k}") or units.get(f"{prefix}.{k}", "") for k in names}
    rows = [
        [quantity(item.get(k), item.get(f"{k}_error"), unit[k], k) for k in names] for item in items
    ]
    return Table(_label(key), [_label(k) for k in names], rows)


def _mask_tables(shares: Mapping[str, Any]) -> Iterable[Table]:
    fields = shares if any(isinstance(v, Mapping) for v in shares.values()) else {"": shares}
    for name, causes in fields.items():
        if not isinstance(causes, Mapping):
            continue
        found = {k: v for k, v in causes.items() if isinstance(v, int | float)}
        rows = [(_label(k), quantity(v, None, "", "fraction")) for k, v in found.items()]
        title = f"Share of the array by cause{f', {name} field' if name else ''}"
        yield Table(title, ("cause", "share"), rows, [min(max(v, 0), 1) for v in found.values()])


def _is_error(key: str, tree: Mapping[str, Any]) -> bool:
    return key == "error" or (key.endswith("_error") and key[:-6] in tree)


def _entry(
    tree: Mapping[str, Any], key: str, units: Mapping[str, str], name: str | None = None
) -> str:
    """Text of the entry ``key`` (dotted) of a tree with its error and unit."""
    parent, last = tree, key
    if key not in tree:  # names of sectors may have dots
        *path, last = key.split(".")
        parent = _find(tree, ".".join(path)) if path else tree
    error = parent.get("error" if last == "value" else f"{last}_error")
    unit = units.get(name or key, "")
    if last in ("value", "level") and not unit:
        unit = parent.get("unit", "") if isinstance(parent.get("unit"), str) else ""
    return quantity(parent.get(last), error, unit, name or key)


def _find(tree: Any, key: str) -> Any:
    for part in key.split(".") if key else ():
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _label(key: str, name: str = "") -> str:
    plain = f"number of {key[2:]}" if key.startswith("n_") else key
    return LABELS.get(name) or LABELS.get(key) or plain.replace("_", " ")


# -- numbers to text ----------------------------------------------------------------------------
def quantity(value: Any, error: Any = None, unit: str = "", name: str = "") -> str:
    """Text of a value with error and unit: ``383.2 ± 1.1 arcsec⁻²``, ``8.5 × 10⁹ Msun``, –."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {quantity(v)}" for k, v in value.items())
    if isinstance(value, list | tuple | np.ndarray):
        if name.endswith("center") and len(value) == 2:  # a position, not two measurements
            return _signs(f"{value[0]:.5f}, {value[1]:+.5f} deg")
        body = ", ".join(quantity(v) for v in value)
        return f"[{body}] {_unit(unit)}".strip()
    if value is None:
        return DASH
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, int | float | np.number):
        return str(value)
    if not math.isfinite(value):
        return DASH
    if not unit and isinstance(value, float) and any(f in name for f in FRACTIONS):
        return _signs(f"{100 * value:.3g} %")
    sigma = float(error) if isinstance(error, int | float | np.number) else math.nan
    return f"{_number(value, sigma)} {_unit(unit)}".strip()


def _number(value: Any, sigma: float) -> str:
    if isinstance(value, int | np.integer) and not math.isfinite(sigma):
        return _signs(f"{value:,}".replace(",", "\u202f"))  # narrow no-break space
    size = max(abs(value), sigma if math.isfinite(sigma) else 0)
    power = math.floor(math.log10(size)) if size > 0 else 0
    scaled = power >= 5 or power <= -4
    factor = 10.0**-power if scaled else 1.0
    top = 0 if scaled else power
    if math.isfinite(sigma) and sigma > 0:
        digits = max(1 - math.floor(math.log10(sigma * factor)), 0)
        text = f"{value * factor:.{min(digits, 8)}f} ± {sigma * factor:.{min(digits, 8)}f}"
    else:
        text = f"{value * factor:.{max(3 - top, 0)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    if scaled:
        text = f"({text})" if "±" in text else text
        text += f" × 10{str(power).translate(SUPERSCRIPT)}"
    return _signs(text)


def _signs(text: str) -> str:
    return text.replace("-", "−")


def _unit(unit: str) -> str:
    """Exponents of a unit as superscripts: ``kpc-2`` becomes kpc⁻²."""
    raised = re.sub(
        r"(?<=[A-Za-z])\*{0,2}\(?(-?\d+(?:\.\d+)?)\)?", lambda m: m[1].translate(SUPERSCRIPT), unit
    )
    return raised.replace("Msun", "M☉").replace("solMass", "M☉")


# -- provenance ---------------------------------------------------------------------------------
def _provenance(run: Mapping[str, Any]) -> tuple[str, list[Table]]:
    """The configuration as YAML, and tables of everything else that the run recorded."""
    config = run.get("config", run.get("configuration"))
    text = ""
    if config:
        text = config if isinstance(config, str) else _yaml(config)
    tables, loose = [], []
    for key, value in run.items():
        # it is running while this is written; its tiles have tables of their own
        if key in ("config", "configuration", "status", "run", "failed"):
            continue
        if key == "stages" and isinstance(value, Mapping):
            tables.append(_stages_table(value))
            continue
        if isinstance(value, Mapping):
            rows = [(str(k), _recorded(v)) for k, v in value.items()]
            if rows:
                tables.append(Table(_label(key).capitalize(), (), rows))
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            head = list(value[0])
            rows_ = [[_recorded(item.get(k)) for k in head] for item in value]
            tables.append(Table(_label(key).capitalize(), head, rows_))
        else:
            loose.append((_label(key), _recorded(value)))
    return text, ([Table("Run", (), loose)] if loose else []) + tables


def _stages_table(stages: Mapping[str, Any]) -> Table:
    rows = [
        [str(name), *(_recorded(stage.get(k)) for k in ("state", "finished", "seconds"))]
        for name, stage in stages.items()
        if isinstance(stage, Mapping)
    ]
    return Table("Stages", ("stage", "state", "finished", "seconds"), rows)


def _failed(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Tiles that failed, as a run says at its end, or as its first stage does before."""
    if run.get("failed"):
        return list(run["failed"])
    detect = (run.get("stages") or {}).get("detect") or {}
    return [
        {"field": name, **tile}
        for name, field in (detect.get("fields") or {}).items()
        for tile in field.get("failed") or ()
    ]


def _failed_table(failed: Sequence[Mapping[str, Any]]) -> Table:
    keys = ("field", "tile", "reason")
    rows = [[str(tile.get(k, DASH)) for k in keys] for tile in failed[:LISTED]]
    if len(failed) > LISTED:
        rows.append([f"and {len(failed) - LISTED} more", "", ""])
    return Table("", keys, rows)


def _recorded(value: Any) -> str:
    """What a run recorded, as it is: digits of sizes and times matter."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_recorded(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return DASH if value is None else str(value)


def _yaml(config: Any) -> str:
    try:
        return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError:  # an object that YAML has no form for: shown, not hidden
        return str(config)
