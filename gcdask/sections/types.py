"""The types of a configuration's values, each with a check that says what to give instead."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from gcdask.configio import mistake
from gcdask.errors import InputError


def _increasing(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] < pair[1]:
        raise mistake("is not increasing; give [smaller, larger]")
    return pair


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) < 3 or any(a >= b for a, b in pairwise(values)):
        raise mistake("is not three or more increasing numbers; give e.g. [1.2, 1.6, 2.0]")
    return values


def _sky(center: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= center[0] <= 360:
        raise mistake("has an RA outside 0-360 deg; give [RA, Dec] in degrees")
    if not -90 <= center[1] <= 90:
        raise mistake("has a Dec outside -90-90 deg; give [RA, Dec] in degrees")
    return center


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _threshold(value: Any) -> float | str:
    if isinstance(value, str):
        words = value.split()
        if words == ["auto"]:
            return "auto"
        if len(words) == 2 and words[1] in ("sigma", "sigmas"):
            try:
                nsigma = float(words[0])
            except ValueError:
                nsigma = float("nan")
            if 0 < nsigma < float("inf"):
                return f"{nsigma:g} sigma"
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e300:
        return float(value)
    raise mistake('is no threshold; give a number > 0 (map units), "N sigma" with N > 0, or auto')


def _angles(value: Any) -> Any:
    numbers = isinstance(value, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= 360 for v in value
    )
    if value == "jwst" or (numbers and value):
        return value
    raise mistake("are no angles; give jwst or a list of position angles (deg)")


def _unit(value: str | None) -> str | None:
    if value is None:
        return None
    from gcdask.mosaic.units import canonical  # slow to import, and seldom needed

    try:
        return canonical(value, "unit") if value.strip() else ""
    except InputError:
        raise mistake("is not a known unit; give one like MJy/sr or nJy, or '' for none") from None


def _memory(value: Any) -> Any:
    from dask.utils import parse_bytes

    if value == "auto":
        return value
    try:
        if isinstance(value, str) and value.strip()[-1:] in ("B", "b") and parse_bytes(value) > 0:
            return value.strip()
    except ValueError:
        pass
    raise mistake("is no memory size; give auto or a size like 4GiB")


def _line(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise mistake("has a line break; give one line")
    return value


def _walltime(value: str) -> str:
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", value):
        raise mistake("is no time limit; give 'HH:MM:SS' or 'DAYS-HH:MM:SS', in quotes")
    return value


def _name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise mistake("is no Kubernetes name; give lower-case letters, digits and -, at most 63")
    return value


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise mistake("is no single value; give a text, a number, true or false")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
Natural = Annotated[int, Field(strict=True, ge=0)]
Switch = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
Line = Annotated[Text, AfterValidator(_line)]
Walltime = Annotated[Line, AfterValidator(_walltime)]
Name = Annotated[str, AfterValidator(_name)]
Scalar = Annotated[
    str | int | float | bool,
    BeforeValidator(_scalar, json_schema_input_type=str | int | float | bool),
]
Memory = Annotated[str, BeforeValidator(_memory, json_schema_input_type=str)]
Rising = Annotated[tuple[Positive, ...], AfterValidator(_rising)]
Span = Annotated[tuple[Positive, Positive], AfterValidator(_increasing)]
Sky = Annotated[tuple[Number, Number], AfterValidator(_sky)]
Radii = Annotated[
    tuple[Positive, ...],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=float | list[float]),
]
Angles = Annotated[
    Literal["jwst"] | tuple[float, ...],
    BeforeValidator(_angles, json_schema_input_type=Literal["jwst"] | list[float]),
]
Threshold = Annotated[float | str, BeforeValidator(_threshold, json_schema_input_type=float | str)]
Unit = Annotated[str | None, AfterValidator(_unit)]


def option(default: Any, description: str) -> Any:
    """Declare an optional key of a section, with its default and what it means."""
    return Field(default=default, description=description)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
