"""The report holds every number, no foreign code, and needs no other file."""

import base64
import re
from html.parser import HTMLParser

import pytest

from gcdask import report
from gcdask.errors import InputError
from gcdask.report import Figure, headlines, quantity, sections, write_report

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
RESULTS = {
    "name": "AS1063",
    "n_detected": 28026,
    "n_inpainted": 3501,
    "threshold": {"value": 3.1, "level": 6.2, "unit": "sigma", "kind": "auto"},
    "purity": {"at_threshold": 0.52, "at_level": 0.934},
    "masked_fraction": 0.236,
    "mask_shares": {"main": {"masked": 0.236, "edge": 0.193}, "reference": {"masked": 0.31}},
    "beta": {
        "value": 383.2,
        "error": 4.1,
        "sectors": {"E": 386.3, "W": 380.7, "S": 396.3, "N": 368.9},
        "sector_errors": {"E": 6.0, "W": 5.0, "S": 4.0, "N": None},
        "dispersion": 11.4,
    },
    "correlation": {"pearson_log": 0.922, "spearman": float("nan")},
    "relation": {"a": 0.45, "a_error": 0.12, "b": 0.62, "b_error": 0.18, "cov": [[1, 2], [2, 3]]},
    "profile": {"slope": -1.95, "slope_error": 0.03, "contamination_arcsec2": 0.363},
    "mass": {
        "within_arcsec": 60.0,
        "msun": 4.23e14,
        "radii": [
            {"within_arcsec": 60.0, "msun": 4.23e14},
            {"within_arcsec": 30.0, "msun": 1.5e14},
        ],
    },
    "truth": {"completeness": 0.96},
    "units": {
        "mass.msun": "Msun",
        "mass.within_arcsec": "arcsec",
        "profile.contamination_arcsec2": "arcsec-2",
    },
}
RUN = {
    "version": "0.1.0",
    "config": {"mosaic": {"path": "demo.zarr"}},
    "versions": {"dask": "2026.8.0"},
    "inputs": [{"path": "demo.zarr", "bytes": 1234}],
}


class Page(HTMLParser):
    """What a browser would make of the file: tags that are open, links, visible text."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, html):
        super().__init__()
        self.links, self.tags, self.open, self.text = [], [], [], ""
        self.feed(html)
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        assert not [k for k, _ in attrs if k.startswith("on")], "a script in an attribute"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page(tmp_path, **changes):
    content = {"title": "AS1063", "results": RESULTS, "run": RUN} | changes
    return Page(write_report(tmp_path / "r.html", **content).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "28\u202f026",
        "383.2 ± 4.1",
        "386.3 ± 6.0",
        "3.1 sigma",
        "93.4 %",
        "23.6 %",
        "0.45 ± 0.12",
        "−1.950 ± 0.030",
        "0.363 arcsec⁻²",
        "4.23 × 10¹⁴ M☉",
        "mass within 60 arcsec",
        "1.5 × 10¹⁴ M☉",
        "completeness",
        "path: demo.zarr",
        "2026.8.0",
        "+0.8 %",
    ],
)
def test_every_number_is_there_with_error_and_unit(tmp_path, text):
    assert text in page(tmp_path).text


def test_it_stands_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(PIXEL)
    html = page(tmp_path, figures=[Figure(tmp_path / "a.png", "Map", "Of the field")])
    assert [link[:22] for link in html.links] == ["data:image/png;base64,"]
    assert base64.b64decode(html.links[0][22:]) == PIXEL
    assert "Of the field" in html.text
    assert not {"script", "link", "iframe", "object"} & set(html.tags)
    source = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", source)


HOSTILE = [
    "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{ 7 * 7 }}",
    "</title></pre></style><script>alert(1)</script>",
    "' onmouseover='alert(1)' x='",
    "javascript:alert(1)",
    "&lt;script&gt;&#x3C;",
    "--><!-- ]]>",
]


@pytest.mark.parametrize("evil", HOSTILE)
def test_names_of_the_user_are_text_and_not_code(tmp_path, evil):
    """Names of fields, bands, files, tiles, notes, results and keys, wherever they are shown."""
    (tmp_path / "a.png").write_bytes(PIXEL)
    html = page(
        tmp_path,
        title=evil,
        results={
            **RESULTS,
            "name": evil,
            "truth": {evil: evil},
            evil: {"a": evil},
            "mask_shares": {evil: {evil: 0.5}},
            "beta": {"value": 1.0, "sectors": {evil: 1.0}},
            "units": {"mass.msun": evil},
        },
        run={
            "run": evil,
            "version": evil,
            "finished": evil,
            "config": {"mosaic": {"bands": {evil: evil}}},
            evil: evil,
            "versions": {evil: evil},
            "inputs": {evil: {"path": evil}},
            "stages": {evil: {"state": evil}},
            "failed": [{"field": evil, "tile": evil, "reason": evil}],
        },
        figures=[Figure(tmp_path / "a.png", evil, evil), Figure(tmp_path / "none", evil)],
        notes=[evil],
    )
    assert not {"script", "iframe", "a", "svg"} & set(html.tags)
    assert html.tags.count("img") == 1
    assert html.tags.count("title") == 1
    assert [link[:5] for link in html.links] == ["data:"]
    assert html.text.count(evil) > 15


def test_only_web_addresses_are_links(tmp_path):
    """And none of them leaves its attribute, or carries a password."""
    paths = {
        "good": "https://archive.org/a.fits?x=1&y=2",
        "with a password": "http://me:hunter22@host/b.fits",
        "script": "javascript:alert(1)//https",
        "data": "data:text/html,<script>alert(1)</script>",
        "file": "file:///etc/passwd",
        "bucket": "s3://bucket/c.zarr",
        "quoted": 'https://x.org/"onclick="alert(1)',
        "tag": "https://y.org/<img src=x onerror=alert(1)>",
    }
    html = page(tmp_path, run={"inputs": {k: {"path": v} for k, v in paths.items()}})
    assert html.links == [
        "https://archive.org/a.fits?x=1&y=2",
        "http://***@host/b.fits",
        "https://x.org/",
        "https://y.org/",
    ]
    assert "img" not in html.tags
    assert "s3://bucket/c.zarr" in html.text


def test_what_is_no_text_is_not_hidden_in_it(tmp_path):
    html = page(tmp_path, title="a\x00b\x1b[31mc\u202egnp.exe", notes=["half\ud800"])
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", html.text)
    assert "half?" in html.text


def test_secrets_of_the_environment_are_not_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr<XUtn>&FEMI")
    html = page(
        tmp_path,
        notes=["refused: wJalr<XUtn>&FEMI"],
        run={"config": {"x": "wJalr<XUtn>&FEMI"}, "a": "wJalr<XUtn>&FEMI"},
    )
    assert "XUtn" not in html.text
    assert "XUtn" not in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert html.text.count("***") == 3


def test_a_partial_run_lists_its_failed_tiles(tmp_path):
    tiles = [{"tile": f"00000-{k:05d}", "reason": f"shard {k} is damaged"} for k in range(250)]
    stages = {"detect": {"state": "done", "fields": {"image": {"total": 300, "failed": tiles}}}}
    failed = [{"field": "image", **tile} for tile in tiles]
    for run in ({"stages": stages}, {"failed": failed}):  # while it runs, and at its end
        html = page(tmp_path, run={**RUN, "run": "20260101-000000-abcdef12", **run})
        for words in ("250 tiles could not", "00000-00199", "shard 199", "and 50 more",
                      "run 20260101-000000-abcdef12"):  # fmt: skip
            assert words in html.text, words
        assert "00000-00200" not in html.text
    assert "Failed tiles" not in page(tmp_path).text


@pytest.mark.parametrize("results", [{}, {"n_detected": 178}, dict.fromkeys(RESULTS)])
def test_sections_without_numbers_are_left_out(tmp_path, results):
    html = page(tmp_path, results=results, run={})
    assert "Mass" not in html.text
    assert "Provenance" not in html.text
    assert "None" not in html.text
    assert "nan" not in html.text
    assert ("Summary" in html.text) == (results.get("n_detected") == 178)


@pytest.mark.parametrize("key", [k for k in RESULTS if k not in ("units", "name")])
def test_any_part_may_be_missing(tmp_path, key):
    page(tmp_path, results={k: v for k, v in RESULTS.items() if k != key})


def test_notes_and_missing_figures_are_seen(tmp_path):
    html = page(tmp_path, notes=["9 rows were dropped"], figures=[Figure("gone.png", "Profiles")])
    assert "9 rows were dropped" in html.text
    assert "The figure “Profiles” is missing (gone.png)" in html.text


def test_a_report_is_replaced_or_kept_whole(tmp_path):
    page(tmp_path)
    page(tmp_path, title="Second")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    with pytest.raises(InputError, match="cannot write"):
        write_report(tmp_path / "no" / "r.html", title="x", results={})


@pytest.mark.parametrize(
    ("value", "error", "unit", "name", "text"),
    [
        (383.2, 1.14, "", "", "383.2 ± 1.1"),
        (0.0123, 0.0004, "kpc-2", "", "0.01230 ± 0.00040 kpc⁻²"),
        (8.47e9, 1.2e8, "Msun", "", "(8.47 ± 0.12) × 10⁹ M☉"),
        (2e-7, None, "", "", "2 × 10⁻⁷"),
        (-1.5, None, "arcsec1.6", "", "−1.5 arcsec¹·⁶"),
        (0, None, "", "", "0"),
        (0.0, 0.1, "", "", "0.00 ± 0.10"),
        (1234567, None, "", "", "1\u202f234\u202f567"),
        (0.147, None, "", "masked_fraction", "14.7 %"),
        (True, None, "", "", "yes"),
        (None, None, "Msun", "", "–"),
        (float("nan"), 1.0, "Msun", "", "–"),
        (float("inf"), None, "", "", "–"),
        ([13.0, 60.0], None, "arcsec", "", "[13, 60] arcsec"),
        ([110.83, -73.45], None, "", "field.center", "110.83000, −73.45000 deg"),
        ("auto", None, "", "", "auto"),
        (5.0, 0.0, "", "", "5"),
    ],
)
def test_quantity(value, error, unit, name, text):
    assert quantity(value, error, unit, name) == text


def test_summary_and_sections():
    found = {label: value for value, label in headlines(RESULTS)}
    assert found["β"] == "383.2 ± 4.1"
    assert "Pearson r of log κ, log ρ" in found
    titles = [title for title, _ in sections({**RESULTS, "light_profile": {"slope": 1.0}})]
    assert titles[0] == "Mask"
    assert titles[-1] == "Light profile"
    tables = dict(sections(RESULTS))["Mask"]
    assert [t.title for t in tables] == [
        "Share of the array by cause, main field",
        "Share of the array by cause, reference field",
    ]
    assert tables[0].bars == [0.236, 0.193]


def test_a_configuration_as_text_stays_as_written(tmp_path):
    text = "# my field\nmosaic:\n  path: a.zarr\n"
    assert text.strip() in page(tmp_path, run={"config": text}).text
    assert report.render(title="x", results={}, run={"config": {"a": object}})
