"""A configuration says what it means, or what is wrong with it: key, value, remedy, one line."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from gcdask import config, storage
from gcdask.errors import InputError

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = ["demo", "smacs0723", "as1063"]
BASE = "mosaic: {path: field.zarr}\nfield: {center: [342.18, -44.53], z_lens: 0.348}\n"


@pytest.fixture
def load(tmp_path):
    """Load ``BASE`` with lines added."""

    def from_text(extra="", overrides=(), base=BASE):
        path = tmp_path / "field.yaml"
        path.write_text(base + extra)
        return config.load(path, overrides)

    return from_text


@pytest.fixture
def refused(load):
    """The message of the `InputError` for a text; checked to be one line."""

    def message(*args, **kwargs):
        with pytest.raises(InputError) as caught:
            load(*args, **kwargs)
        text = str(caught.value)
        assert "\n" not in text
        assert caught.value.exit_code == 2
        return text

    return message


# -- values -----------------------------------------------------------------------------------
def test_defaults_are_the_papers(load):
    c = load()
    assert c.density.alpha == 1.6
    assert c.density.softening == 0.9
    assert c.detect.filters == ((0.5, 5.0), (1.0, 3.0))
    assert c.detect.radius == 3
    assert c.compare.n_range == (0.67, 5.67)
    assert c.mask.edge == 6.6
    assert (c.field.h0, c.field.om0) == (70, 0.3)
    assert c.lens is None
    assert c.catalog is None
    assert c.name == "field"  # the file's name


def test_frozen(load):
    with pytest.raises(ValidationError):
        load().density.alpha = 2.0


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [("auto", "auto", None), ("0.02", "value", 0.02), ("2e-3", "value", 0.002),
     ("5 sigma", "sigma", 5.0), ("4.5 sigma", "sigma", 4.5)],
)  # fmt: skip
def test_thresholds(load, text, kind, value):
    detect = load(f"detect: {{threshold: {text}}}").detect
    assert (detect.threshold_kind, detect.threshold_value) == (kind, value)


def test_empty_sections_have_defaults_and_null_turns_off(load):
    c = load("mask:\n  bright: null\n  # edge: 3\ndetect:\nlens:\n")
    assert c.mask.bright is None
    assert c.mask.luminous is not None
    assert c.detect == config.Detect()
    assert c.lens is None


def test_one_radius_is_a_list_of_one(load):
    assert load("mass: {radius: 30, radius_kpc: [128, 400]}").mass.model_dump() == {
        "radius": (30.0,),
        "radius_kpc": (128.0, 400.0),
    }


@pytest.mark.parametrize(
    ("lens", "kind"),
    [("path: a.par", "lenstool"), ("path: a.fits", "kappa"),
     ("path: a.fits, path_y: b.fits", "deflection")],
)  # fmt: skip
def test_kind_of_lens_from_its_files(load, lens, kind):
    assert load(f"lens: {{{lens}}}").lens.resolved_kind == kind


def test_canonical_is_plain_and_independent_of_spelling(load):
    a = load("density: {alpha: 2}\ninpaint: {seed: 1}").canonical()
    b = load("inpaint: {seed: 1}\ndensity: {alpha: 2.0, softening: 0.9}").canonical()
    assert json.dumps(a, allow_nan=False) == json.dumps(b)
    assert a["density"]["alpha"] == 2.0
    assert a != load("inpaint: {seed: 2}").canonical()


# -- paths and overrides ----------------------------------------------------------------------
def test_paths_start_from_the_file_and_overrides_from_here(load, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    c = load(
        "lens: {path: ../lens.par}\nmask: {regions: [a.reg, /b.reg], files: [s3://x/m.zarr]}",
        ["manual=by_hand.csv", "reference={bands: {F090W: r.fits}}"],
    )
    assert c.mosaic.path == str(tmp_path / "field.zarr")
    assert c.lens.path == str(tmp_path.parent / "lens.par")
    assert c.mask.regions == (str(tmp_path / "a.reg"), "/b.reg")
    assert c.mask.files == ("s3://x/m.zarr",)
    assert c.manual == str(here / "by_hand.csv")
    assert c.reference.bands == {"F090W": str(here / "r.fits")}


def test_built_in_catalogue_is_no_path(load):
    base = "catalog: {path: 'builtin:faisst2022'}\nfield: {center: [1, 2], z_lens: 0.39}\n"
    c = load(base=base)
    assert c.catalog.path == "builtin:faisst2022"
    assert c.local_paths() == []


def test_files_beside_the_mosaic_follow_it(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "lens: {path: '{mosaic}_lens.par'}\nreference: {path: '{mosaic}_module2.zarr'}"
    assert load(text).lens.path == str(tmp_path / "field_lens.par")
    moved = load(text, ["mosaic.path=data/mock.zarr"])
    assert moved.lens.path == str(tmp_path / "data" / "mock_lens.par")
    assert moved.reference.path == str(tmp_path / "data" / "mock_module2.zarr")


def test_beside_no_mosaic(refused):
    base = "mosaic: {bands: {A: a.fits}}\nfield: {center: [1, 2], z_lens: 0.3}\n"
    message = refused("lens: {path: '{mosaic}_lens.par'}", base=base)
    assert "mosaic.path" in message
    assert "not given" in message


def test_overrides_are_yaml(load):
    c = load(
        "",
        ["density.alpha=1.8", "mask.bright=null", "compare.n_range=[1, 4]", "name='7'",
         "lens.path=/m.par", "lens.z_source=3", "output.fits=false", "detect.threshold=5 sigma"],
    )  # fmt: skip
    assert c.density.alpha == 1.8
    assert c.mask.bright is None
    assert c.compare.n_range == (1, 4)
    assert c.name == "7"
    assert (c.lens.path, c.lens.z_source) == ("/m.par", 3)
    assert not c.output.fits
    assert c.detect.threshold == "5 sigma"


@pytest.mark.parametrize(
    ("override", "words"),
    [("density.alpha", ["density.alpha", "KEY.SUBKEY=VALUE"]),
     ("=3", ["=3", "KEY.SUBKEY=VALUE"]),
     ("density..alpha=3", ["density..alpha", "KEY.SUBKEY=VALUE"]),
     ("name.sub=3", ["name", "not a section"]),
     ("density.alpha=[1", ["density.alpha", "line 1"]),
     ("density.alhpa=3", ["density.alhpa", "did you mean alpha?"]),
     ("density.alpha=-3", ["density.alpha", "-3", "> 0"])],
)  # fmt: skip
def test_mistakes_in_overrides(refused, override, words):
    message = refused("name: a", [override])
    assert all(word in message for word in words), message


def test_missing_files_are_named_with_their_key(load, tmp_path):
    c = load("mask: {regions: [a.reg, b.reg]}\nlens: {path: memory://there/x.par}")
    (tmp_path / "field.zarr").mkdir()
    (tmp_path / "a.reg").write_text("")
    with pytest.raises(InputError, match=r"^mask\.regions\[1\]: .*b\.reg does not exist; .*--set"):
        c.check_paths()
    (tmp_path / "b.reg").write_text("")
    with pytest.raises(InputError, match=r"^lens\.path: memory://there/x\.par does not exist"):
        c.check_paths()
    storage.write_bytes("memory://there/x.par", b"fini")
    c.check_paths()


def test_an_hdu_behind_a_path_is_no_part_of_it(load, tmp_path):
    (tmp_path / "a.fits").write_text("")
    found = load("", [f"mosaic={{bands: {{A: '{tmp_path}/a.fits[SCI]'}}}}"])
    found.check_paths()
    assert found.mosaic.bands["A"] == f"{tmp_path}/a.fits[SCI]"
    assert found.input_paths() == [("mosaic.bands.A", f"{tmp_path}/a.fits")]
    other = load("", [f"mosaic={{bands: {{A: '{tmp_path}/a.fits[ERR]'}}}}"])
    assert found.deciding() != other.deciding()  # but it decides
    (tmp_path / "a.fits[SCI]").write_text("")  # unless a file has that very name
    assert found.input_paths() == [("mosaic.bands.A", f"{tmp_path}/a.fits[SCI]")]


# -- mistakes ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        # unknown keys
        ("detect: {treshold: 1}", ["detect.treshold", "value 1", "did you mean threshold?"]),
        ("mossaic: 3", ["mossaic", "value 3", "did you mean mosaic?"]),
        ("alpha: 2", ["alpha", "did you mean density.alpha?"]),
        ("mask: {spikes: {stars: [{ra: 1, dec: 2, len: 3}]}}",
         ["mask.spikes.stars[0].len", "length"]),
        ("zzz: 1", ["zzz", "known here: name, mosaic"]),
        ("1: 2", ["1", "quotes"]),
        # types
        ("density: {alpha: steep}", ["density.alpha", "'steep'", "number"]),
        ("density: {alpha: '1.6'}", ["density.alpha", "'1.6'", "number"]),
        ("density: {alpha: true}", ["density.alpha", "true", "number"]),
        ("density: {alpha: .nan}", ["density.alpha", "nan", "finite"]),
        ("density: {alphas: 1.4}", ["density.alphas", "1.4", "list"]),
        ("detect: {radius: 2.5}", ["detect.radius", "2.5", "whole number"]),
        ("inpaint: {seed: -1}", ["inpaint.seed", "-1", ">= 0"]),
        ("output: {fits: 1}", ["output.fits", "1", "true nor false"]),
        ("name: 3", ["name", "3", "quotes"]),
        ("mask: 3", ["mask", "3", "section"]),
        ("mask: {bright: 5}", ["mask.bright", "5", "section"]),
        ("mask: {regions: a.reg}", ["mask.regions", "a.reg", "list"]),
        ("lens: {path: ''}", ["lens.path", "''", "empty"]),
        ("lens: {}", ["lens.path", "missing", "Lenstool"]),
        ("lens: {path: 3}", ["lens.path", "3", "text"]),
        # ranges
        ("detect: {threshold: 0}", ["detect.threshold", "0", "> 0", "sigma", "auto"]),
        ("detect: {threshold: -0.1}", ["detect.threshold", "-0.1", "> 0"]),
        ("detect: {threshold: high}", ["detect.threshold", "'high'", "auto"]),
        ("detect: {threshold: 0 sigma}", ["detect.threshold", "'0 sigma'", "N > 0"]),
        ("detect: {threshold: null}", ["detect.threshold", "null", "auto"]),
        ("detect: {fraction: 1.5}", ["detect.fraction", "1.5", "< 1"]),
        ("detect: {filters: [[0.5, 5]]}", ["detect.filters", "[[0.5, 5]]", "number of values"]),
        ("detect: {filters: [[5, 0.5], [1, 3]]}", ["detect.filters[0]", "[5, 0.5]", "increasing"]),
        ("density: {alpha: 0}", ["density.alpha", "0", "> 0"]),
        ("compare: {n_range: [5, 1]}", ["compare.n_range", "[5, 1]", "increasing"]),
        ("compare: {half_width: 200}", ["compare.half_width", "200", "<= 180"]),
        ("compare: {sectors: {E: east}}", ["compare.sectors.E", "'east'", "number"]),
        ("tiles: {size: 8}", ["tiles.size", "8", ">= 64"]),
        ("mass: {radius: [10, -2]}", ["mass.radius[1]", "-2", "> 0"]),
        ("mass: {radius: big}", ["mass.radius[0]", "'big'", "number"]),
        ("mask: {spikes: {stars: [{ra: 400, dec: 2}]}}", ["mask.spikes.stars[0].ra", "400"]),
        ("mask: {spikes: {angles: hst}}", ["mask.spikes.angles", "'hst'", "jwst"]),
        ("inpaint: {estimator: mean}", ["inpaint.estimator", "'mean'", "'density' or 'local'"]),
        ("cluster: {memory: lots}", ["cluster.memory", "'lots'", "4GiB"]),
        ("cluster: {memory: 4}", ["cluster.memory", "4", "4GiB"]),
        # several keys
        ("lens: {path: x.fits, z_lens: 2, z_source: 1}", ["lens.z_source", "1", "z_lens 2"]),
        ("lens: {path: x.fits, kind: deflection}", ["lens.path_y", "missing"]),
        ("noise: {cell: 32}", ["noise.patch", "64", "32"]),
        ("profiles: {r_min: 5, r_max: 4}", ["profiles.r_max", "4", "r_min"]),
        ("profiles: {r_max: 10}", ["profiles.slope_range", "[13.0, 60.0]", "r_max"]),
        ("profiles: {contamination: {method: given}}",
         ["profiles.contamination.value", "missing", "arcsec^-2"]),
        ("profiles: {contamination: {value: 1}}",
         ["profiles.contamination.value", "method: given"]),
        ("profiles: {contamination: {method: reference}}",
         ["profiles.contamination.method", "reference"]),
        ("reference: {path: a, bands: {A: b}}", ["reference", "both", "not both"]),
        ("reference: {bands: {A: b}, err: {C: d}}", ["reference.err", "C", "(A)"]),
        ("reference: {bands: {A: b}, use: [D]}", ["reference.use", "D", "(A)"]),
        ("reference: {path: b, unit: parsnips}", ["reference.unit", "'parsnips'", "MJy/sr"]),
        ("catalog: {path: c.csv}", ["mosaic and catalog", "one of them"]),
        ("output: {figures: false}", ["output.report", "figures"]),
    ],
)  # fmt: skip
def test_mistakes_name_key_value_and_remedy(refused, extra, words):
    message = refused(extra)
    assert all(word in message for word in words), message
    assert "field.yaml: " in message
    assert "more mistake" not in message


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("{z_lens: 0.3}", ["field.center", "missing"]),
        ("{center: [1, 2]}", ["field.z_lens", "missing", "redshift"]),
        ("{center: [1], z_lens: 0.3}", ["field.center", "[1]", "number of values"]),
        ("{center: [1, 2, 3], z_lens: 0.3}", ["field.center", "[1, 2, 3]", "number of values"]),
        ("{center: [-1, 2], z_lens: 0.3}", ["field.center", "[-1, 2]", "RA", "degrees"]),
        ("{center: [1, 92], z_lens: 0.3}", ["field.center", "[1, 92]", "Dec", "degrees"]),
        ("{center: [1, 2], z_lens: 0}", ["field.z_lens", "0", "> 0"]),
        ("{center: [1, 2], z_lens: 3.5}", ["field.z_source", "3", "z_lens 3.5"]),
        ("[1, 2]", ["field", "[1, 2]", "section"]),
    ],
)
def test_mistakes_about_the_field(refused, field, words):
    message = refused(base=f"mosaic: {{path: a.zarr}}\nfield: {field}\n")
    assert all(word in message for word in words), message


def test_neither_mosaic_nor_catalogue(refused):
    message = refused(base="field: {center: [1, 2], z_lens: 0.3}")
    assert "no mosaic and no catalog" in message


def test_several_mistakes_are_counted_unknown_keys_first(refused):
    message = refused("density: {alpha: -1, softning: 3}\ntiles: {size: 1}")
    assert "density.softning" in message
    assert message.endswith("(and 2 more mistakes)")


def test_long_values_are_cut(refused):
    assert len(refused(f"density: {{alpha: {'x' * 5000}}}")) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty", "configs/"]),
        ("# nothing\n", ["empty"]),
        ("- a\n- b\n", ["['a', 'b']", "KEY: VALUE"]),
        ("just text", ["'just text'", "KEY: VALUE"]),
        ("a: [1", ["line 1"]),
        ("a: 1\n\tb: 2", ["line 2", "\\t"]),
        ("a: *unknown", ["line 1", "unknown"]),
        ("name: a\nname: b\n", ["name", "twice", "line 2"]),
        ("mask:\n  edge: 1\n  edge: 2\n", ["edge", "twice", "line 3"]),
        ("a: !!python/object/apply:os.system [ls]", ["line 1", "tag", "not allowed"]),
        ("? [1, 2]\n: 3", ["line 1", "key"]),
    ],
)
def test_no_configuration_in_the_file(refused, text, words):
    message = refused(base=text)
    assert all(word in message for word in words), message


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"no configuration at .*nothing.yaml; give"):
        config.load(tmp_path / "nothing.yaml")
    with pytest.raises(InputError, match=r"cannot read .*Is a directory"):
        config.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=r"binary.yaml.*not text"):
        config.load(tmp_path / "binary.yaml")


def test_recursive_yaml_ends(refused):
    assert "an alias stands inside of what it names" in refused("loop: &loop [*loop]")


# -- the shipped files and the schema ---------------------------------------------------------
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_load(name):
    c = config.load(CONFIGS / f"{name}.yaml")
    assert c.lens is not None
    assert all(Path(path).is_absolute() for _, path in c.local_paths())


def test_the_demo_that_is_packaged_is_the_one_shown():
    packaged = Path(config.__file__).parent / "data" / "demo.yaml"
    assert (CONFIGS / "demo.yaml").read_text() == packaged.read_text()


def test_smacs0723_finds_its_lens_model(shared_data):
    c = config.load(CONFIGS / "smacs0723.yaml")
    overridden = config.load(
        CONFIGS / "smacs0723.yaml",
        [f"lens.path={shared_data}/smacs0723/mahler2022_iclv2_best.par"],
    )
    overridden.check_paths()
    assert Path(c.lens.path).name == Path(overridden.lens.path).name


def _sections(schema):
    yield schema
    yield from schema["$defs"].values()


def test_schema_describes_every_key():
    schema = config.schema()
    json.dumps(schema)
    for section in _sections(schema):
        assert section["additionalProperties"] is False
        for name, key in section["properties"].items():
            assert key.get("description"), f"{section['title']}.{name}"
            assert "default" in key or name in section["required"], f"{section['title']}.{name}"


def _check(value, schema, root, where=""):
    """The part of JSON schema that ours uses, as an oracle for the shipped files."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        failures = []
        for option in schema["anyOf"]:
            try:
                return _check(value, option, root, where)
            except AssertionError as error:
                failures.append(str(error))
        raise AssertionError(f"{where}: {failures}")
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float),
             "integer": int, "boolean": bool, "null": type(None)}  # fmt: skip
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), f"{where} is no {schema['type']}"
    if "const" in schema:
        assert value == schema["const"], where
    if "enum" in schema:
        assert value in schema["enum"], where
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= set(value), where
        for key, item in value.items():
            assert key in schema["properties"], f"{where}.{key}"
            _check(item, schema["properties"][key], root, f"{where}.{key}")
    return None


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_satisfy_the_schema(name):
    import yaml

    _check(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), config.schema(), config.schema())


def test_files_of_the_cluster_are_beside_the_configuration_and_decide_nothing(tmp_path):
    text = "{ca: tls/ca.pem, cert: tls/cert.pem, key: tls/key.pem}"
    path = tmp_path / "a.yaml"
    path.write_text(BASE + f"\ncluster: {{scheduler_file: c.json, tls: {text}}}\n")
    found = config.load(path)
    assert found.cluster.scheduler_file == str(tmp_path / "c.json")
    assert found.cluster.tls.key == str(tmp_path / "tls/key.pem")
    assert not [key for key, _ in found.input_paths() if key.startswith("cluster")]
    path.write_text(BASE)
    assert config.load(path).deciding() == found.deciding()
