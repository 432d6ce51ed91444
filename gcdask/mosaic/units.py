"""Units of pixels: what BUNIT means, and the factor from one unit to another.

Pixels hold either a surface brightness (MJy/sr) or a flux per pixel (nJy, electron/s). The two
differ by the pixel's area, so a conversion needs the pixel areas of both images.
"""

from __future__ import annotations

import re
import warnings

from astropy import units as u

from gcdask.errors import InputError

# Spellings of headers that astropy does not read, compared without regard to case.
_WORDS = {
    "electrons": "electron",
    "count": "ct",
    "counts": "ct",
    "cts": "ct",
    "adus": "adu",
    "dns": "DN",
    "sec": "s",
    "secs": "s",
    "second": "s",
    "seconds": "s",
    "pixels": "pix",
    "unitless": "",
    "dimensionless": "",
}
# Words of headers in capitals. They come first there: a lone "S" would read as siemens.
_CAPITALS = {
    "S": "s",
    "SR": "sr",
    "JY": "Jy",
    "MJY": "MJy",
    "UJY": "uJy",
    "NJY": "nJy",
    "ELECTRON": "electron",
    "PIX": "pix",
    "PIXEL": "pix",
    "ARCSEC": "arcsec",
    "ARCSEC2": "arcsec2",
    "ADU": "adu",
    "DN": "DN",
    "ERG": "erg",
    "CM": "cm",
    "CM2": "cm2",
    "HZ": "Hz",
    "ANGSTROM": "Angstrom",
}


def canonical(text: str, where: str) -> str:
    """Return the astropy spelling of a unit; ``where`` names the file in the error.

    Quotes, blanks, plurals and capitals of real headers are understood:
    ``"10.0*nanoJansky"`` is ``"10 nJy"``, ``"ELECTRONS/S"`` is ``"electron / s"``.

    Raises
    ------
    InputError
        If it is not a unit, or not a linear one (magnitudes).
    """
    clean = text.strip().strip("'\"").strip()
    capitals = clean.upper() == clean
    words = re.sub(r"[A-Za-z]+\d?", lambda word: _spell(word.group(), capitals), clean)
    unit = _parse(words)
    if unit is None:
        raise InputError(
            f"{where}: unknown unit {text.strip()!r}; give the unit of the pixels with "
            "unit=... (--unit), e.g. 'MJy/sr'"
        )
    if not isinstance(unit, u.UnitBase) or u.dex in unit.decompose().bases:
        raise InputError(
            f"{where}: unit {text.strip()!r} is not linear; convert the image to a flux and give "
            "its unit with unit=... (--unit)"
        )
    return unit.to_string()


def factor(unit: str, reference: str, area: float, reference_area: float) -> float | None:
    """Factor that turns pixels of ``unit`` into ``reference``, or None if there is none.

    ``area`` and ``reference_area`` are the areas of the pixels in sr. A flux per pixel counts
    as a surface brightness, so that it stays right when the pixels change size.
    """
    ours, area_power = _per_pixel(unit)
    theirs, reference_power = _per_pixel(reference)
    ours = ours / u.sr if area_power else ours
    theirs = theirs / u.sr if reference_power else theirs
    try:
        ratio = ours.to(theirs)
    except u.UnitConversionError:
        return None
    ratio *= (reference_area if reference_power else 1.0) / (area if area_power else 1.0)
    # a unit in terms of itself must be exactly one, whatever the rounding on the way
    return 1.0 if abs(ratio - 1) < 1e-9 else float(ratio)


def _per_pixel(text: str) -> tuple[u.UnitBase, bool]:
    """Return the unit without ``pix``, and whether it is per pixel rather than per solid angle."""
    unit = u.Unit(text)
    parts = unit.decompose()
    powers = dict(zip(parts.bases, parts.powers, strict=True))
    if powers.get(u.pix) == -1:
        unit = unit * u.pix
    return unit, powers.get(u.rad) != -2


def _spell(word: str, capitals: bool) -> str:
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    if capitals and word in _CAPITALS:
        return _CAPITALS[word]
    return word


def _parse(text: str) -> u.UnitBase | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # two slashes are read as they look
        for style in (None, "fits", "cds"):
            try:
                return u.Unit(text, format=style)
            except (ValueError, TypeError):
                continue
    return None
