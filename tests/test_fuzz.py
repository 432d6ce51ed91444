"""Whatever stands in a configuration or a FITS header: one line and exit code 2, or it works."""

import contextlib
import copy
import datetime
import io
import os
import resource
import signal
import string

import numpy as np
import pytest
import tinyfield
import yaml
from astropy.io import fits
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gcdask import cli
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.mosaic import open_mosaic

SECONDS = 30
FUZZ = settings(
    deadline=None,  # a hang is ended by `bounded`
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
FAR = settings(FUZZ, derandomize=False, max_examples=2000)  # others each time


class Hang(BaseException):
    """Not to be caught by what it ends."""


# -- what must hold -------------------------------------------------------------------------------
@contextlib.contextmanager
def bounded(memory=4 << 30):
    """End what takes more than 30 s, or gigabytes."""

    def stop(*_):
        raise Hang(f"more than {SECONDS} s")

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def holds(*arguments):
    """Run a command line; check what it says and its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with bounded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(a) for a in arguments])
    lines = err.getvalue().splitlines()
    errors = [line for line in lines if not line.startswith("warning: ")]
    assert code in (0, 2), (code, err.getvalue())
    assert "Traceback" not in err.getvalue() + out.getvalue()
    assert len(errors) == (code == 2), err.getvalue()
    assert all(line.isprintable() and len(line) < 2000 for line in lines), lines
    if code == 2:
        assert errors[0].startswith("error: ")
        assert out.getvalue() == ""
    return code


def contents(folder):
    return {
        path: os.stat(path).st_mtime_ns
        for parent, _, names in os.walk(folder)
        for path in (os.path.join(parent, name) for name in names)
    }


@pytest.fixture(autouse=True)
def no_store_is_far(monkeypatch, tmp_path):
    """No request leaves this machine, and relative paths lead to an empty folder."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    yield
    assert list(empty.iterdir()) == []


# -- configurations -------------------------------------------------------------------------------
PATHS = [
    "", ".", "..", "/", "~", "~nobody-there/x", "/dev/null", "/dev/zero", "a.fits", "A.fits[9]",
    "A.fits[SCI", "A.fits[]", "[", "{mosaic}", "{mosaic}{mosaic}.reg", "x" * 600, "../" * 300,
    "memory://", "memory://x", "memory://x.zarr", "http://127.0.0.1:1/a.fits", "http://", "s3://",
    "https://[::1", "file://", "file:///etc/passwd", "://", "x://y", "a::b://c", "builtin:",
    "lens.par",
    "builtin:none", "\x00", "a\x00b.zarr", "\x1b[31mred", "A.fits\n", "hidden.reg", "tiny.yaml",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2**31, 2**63, -(2**64), 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    -float("inf"), -0.0, 1e-9, 0.5, 90.0, 359.999, 360.0, 1e6, 64, 65, 1000, 100_000,
]  # fmt: skip
words = st.text(st.characters(codec="utf-8"), max_size=12) | st.text(max_size=6)
scalars = (
    st.sampled_from(NUMBERS)
    | st.sampled_from(PATHS)
    | words
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["auto", "4 sigma", "-1 sigma", "nan sigma", "1e400 sigma", "jwst", "yes"])
    | st.just(datetime.date(2026, 1, 1))
    | st.binary(max_size=4)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(words | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


def nodes(tree, at=()):
    """Places of all values in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from nodes(value, (*at, key))


FULL = {
    **tinyfield.CONFIG,
    "reference": {"bands": {"A": "A.fits", "B": "B.fits"}, "name": "other"},
    "mask": {
        **tinyfield.CONFIG["mask"],
        "bright": {"nsigma": 150.0},
        "spikes": {"stars": [{"ra": 342.18, "dec": -44.53}], "angles": [30.0]},
        "files": [],
    },
    "inpaint": {"iterations": 1, "seed": 0},
    "manual": None,
}


def alike(value):
    """Values that may pass for this one."""
    if isinstance(value, bool) or value is None:
        return st.booleans() | st.none()
    if isinstance(value, int | float):
        return st.sampled_from(NUMBERS) | st.integers(0, 5000) | st.floats(0, 400)
    if isinstance(value, list):
        return st.lists(alike(value[0]) if value else words, max_size=4)
    if isinstance(value, dict):
        return st.dictionaries(words, alike(next(iter(value.values()), None)), max_size=3)
    return st.sampled_from(PATHS) | words


@st.composite
def configurations(draw):
    """The text of a configuration with some mistakes in it."""
    tree = copy.deepcopy(draw(st.sampled_from([tinyfield.CONFIG, FULL])))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        *place, last = draw(st.sampled_from(list(nodes(tree))))
        parent = tree
        for key in place:
            parent = parent[key]
        how = draw(st.sampled_from(["value", "value", "value", "remove", "nest", "add", "swap"]))
        if how == "value":
            parent[last] = draw(alike(parent[last]) | values)
        elif how == "remove":
            del parent[last]
        elif how == "nest":
            for _ in range(draw(st.sampled_from([1, 2, 40]))):
                parent[last] = draw(st.sampled_from([[parent[last]], {"a": parent[last]}]))
        elif how == "add" and isinstance(parent, dict):
            parent[draw(words | st.sampled_from(sorted(FULL)))] = draw(values)
        elif how == "swap":
            parent[last] = copy.deepcopy(tree[draw(st.sampled_from(sorted(tree, key=str)))])
        if not tree:
            break
    text = yaml.dump(tree, allow_unicode=draw(st.booleans()))
    if draw(st.integers(0, 5)) == 0:  # and mistakes of typing
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(text)))
            typed = draw(
                st.sampled_from([*"{}[]&*!|>%@`'\"#:-?,\t\n=~", "<<: ", "!!set ", "\ufeff"])
            )
            text = text[:at] + typed + text[at + draw(st.integers(0, 2)) :]
    return text


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "in"
    folder.mkdir()
    return tinyfield.make(folder)


@pytest.fixture(scope="module", autouse=True)
def _warm(field):
    holds("run", field / "tiny.yaml", "--dry-run")


def test_the_fields_that_are_fuzzed_are_good_ones(field):
    for number, tree in enumerate((tinyfield.CONFIG, FULL)):
        path = field / f"good-{number}.yaml"
        path.write_text(yaml.dump(tree))
        assert holds("run", path, "--dry-run") == 0
        path.unlink()


def holds_of_configuration(field, text):
    path = field / "fuzzed.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    before = contents(field.parent)
    holds("run", path, "--dry-run")
    assert contents(field.parent) == before


@settings(FUZZ, max_examples=500)
@given(text=configurations())
def test_configurations(field, text):
    holds_of_configuration(field, text)


@pytest.mark.slow
@FAR
@given(text=configurations())
def test_many_more_configurations(field, text):
    holds_of_configuration(field, text)


KEYS = ["mosaic.path", "mosaic", "detect.threshold", "tiles.size", "mask.regions", "lens.path",
        "name", "field.center", "compare.sectors", "mass.radius", "density.alphas", "a.b",
        ""]  # fmt: skip


@settings(FUZZ, max_examples=100)
@given(
    key=st.sampled_from(KEYS) | words,
    value=values.map(lambda v: yaml.dump(v, default_flow_style=True)) | words,
)
def test_settings_of_the_command_line(field, key, value):
    holds("run", field / "tiny.yaml", "--dry-run", "--set", f"{key}={value}")


# -- FITS headers ---------------------------------------------------------------------------------
def images():
    """Files with every kind of image, as bytes."""
    grid = Grid.tangent(tinyfield.CENTER, (60, 70), 0.03)
    header = grid.wcs.to_header()
    header["BUNIT"], header["FILTER"] = "MJy/sr", "F090W"
    data = np.random.default_rng(0).normal(size=grid.shape).astype("float32")
    sip = header.copy()
    sip["CTYPE1"], sip["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    sip["A_ORDER"], sip["B_ORDER"], sip["A_2_0"], sip["B_0_2"] = 2, 2, 1e-6, 1e-6
    whole = (1000 * data).astype("int16")
    lists = [
        [fits.PrimaryHDU(data, header)],
        [fits.PrimaryHDU(data, sip)],
        [fits.PrimaryHDU((whole + 5000).astype("uint16"), header)],
        [fits.PrimaryHDU(), fits.ImageHDU(data, header, name="SCI"),
         fits.ImageHDU(data, name="ERR")],
        [fits.PrimaryHDU(data[None], header)],
        [fits.PrimaryHDU(), fits.CompImageHDU(whole, header, compression_type="RICE_1")],
        [fits.PrimaryHDU(), fits.CompImageHDU(data, header, compression_type="GZIP_2",
                                              quantize_level=0, tile_shape=(32, 32))],
        [fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("ra", "D", array=[1, 2])])],
    ]  # fmt: skip
    out = []
    for hdus in lists:
        stream = io.BytesIO()
        fits.HDUList(hdus).writeto(stream)
        out.append(stream.getvalue())
    return out


IMAGES = images()
CARDS = ["0", "1", "-1", "2", "3", "8", "16", "-32", "-64", "64", "7", "999", "1000000000",
         "99999999999999999999", "1E400", "-1.5", "NaN", "T", "F", "''", "'RA---TAN'", "'DEC--TAN'",
         "'GLON-CAR'", "'XXXX-ZZZ'", "'FREQ'", "'deg'", "'furlong'", "'MJy/sr", "'a''b'", "(1, 2)",
         "", "= 3", "'" + "x" * 66 + "'", "'1PB(9)'", "'1D'", "'GZIP_1'", "'HCOMPRESS_1'",
         "\x1b[31m",
         "'\xe9\xff'", "1.0 / comment", "'mag'", "0.0", "1E-300", "90.0", "-90.0"]  # fmt: skip
NAMES = ["SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT",
         "EXTEND", "BSCALE", "BZERO", "BLANK", "BUNIT", "FILTER", "EXTNAME", "EXTVER", "CTYPE1",
         "CTYPE2",
         "CRPIX1", "CRVAL1", "CRVAL2", "CDELT1", "CDELT2", "PC1_1", "PC1_2", "PC2_2", "CD1_1",
         "CD2_2",
         "CUNIT1", "LONPOLE", "LATPOLE", "EQUINOX", "RADESYS", "WCSAXES", "A_ORDER", "A_2_0",
         "B_ORDER",
         "CPDIS1", "PV2_1", "TFIELDS", "TFORM1", "TTYPE1", "THEAP", "ZIMAGE", "ZBITPIX", "ZNAXIS",
         "ZNAXIS1", "ZNAXIS2", "ZTILE1", "ZTILE2", "ZCMPTYPE", "ZNAME1", "ZVAL1", "ZBLANK", "END",
         "CONTINUE", "HIERARCH a b", "DATE-OBS", "MJD-OBS", "CHECKSUM", "GROUPS"]  # fmt: skip


def card(name, value):
    text = f"{name:8s}= {value:>20s}" if name not in ("END", "CONTINUE") else f"{name:8s}{value}"
    return text.encode("latin-1")[:80].ljust(80)


@st.composite
def files(draw):
    """The bytes of a FITS file with damaged headers."""
    data = bytearray(draw(st.sampled_from(IMAGES)))
    for _ in range(draw(st.integers(1, 4))):
        cards = [i for i in range(0, len(data) - 79, 80) if _is_card(data[i : i + 80])]
        how = draw(st.sampled_from(["set", "set", "set", "put", "remove", "move", "byte", "cut",
                                    "insert"]))  # fmt: skip
        if not cards or not data:
            break
        at = draw(st.sampled_from(cards))
        if how == "set":
            name = data[at : at + 8].decode("latin-1").strip()
            data[at : at + 80] = card(name, draw(st.sampled_from(CARDS)))
        elif how == "put":
            data[at : at + 80] = card(draw(st.sampled_from(NAMES)), draw(st.sampled_from(CARDS)))
        elif how == "remove":
            data[at : at + 80] = b" " * 80
        elif how == "move":
            other = draw(st.sampled_from(cards))
            data[at : at + 80], data[other : other + 80] = (
                data[other : other + 80],
                data[at : at + 80],
            )
        elif how == "byte":
            data[at + draw(st.integers(0, 79))] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[draw(st.sampled_from([at, at + 1, len(data) // 2, len(data) - 1])) :]
        else:
            data[at:at] = draw(st.sampled_from([b" " * 2880, b"\0" * 2880, b" " * 80, b"END"]))
    return bytes(data)


def _is_card(text):
    name = text[:8].decode("latin-1").rstrip()
    return bool(name) and set(name) <= set(string.ascii_uppercase + string.digits + "-_")


def holds_of_file(folder, content):
    path, store = folder / "a.fits", folder / "m.zarr"
    path.write_bytes(content)
    holds("inspect", path)
    wrote = holds("ingest", store, f"A={path}", "--unit", "nJy", "--chunks", "256") == 0
    assert wrote == store.exists()
    assert {p.name for p in folder.iterdir()} <= {"a.fits", "m.zarr"}
    with bounded(), contextlib.suppress(InputError):
        open_mosaic(path).sci[0, :9, :9].compute(scheduler="sync")


@settings(FUZZ, max_examples=200)
@given(content=files())
def test_fits_headers(tmp_path_factory, content):
    holds_of_file(tmp_path_factory.mktemp("fits"), content)


@pytest.mark.slow
@FAR
@given(content=files())
def test_many_more_fits_headers(tmp_path_factory, content):
    holds_of_file(tmp_path_factory.mktemp("fits"), content)
