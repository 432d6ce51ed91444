"""The shipped configurations on what they are for: SMACS0723 as it is, AS1063 on a mock pair."""

import shutil

import numpy as np
import pytest
import xarray as xr

from gcdask import cli, mosaic, pipeline, storage
from gcdask.config import load

QUIET = "output={fits: false, figures: false, report: false}"


@pytest.fixture(scope="module")
def root(request):
    return request.config.rootpath


def test_smacs0723_meets_the_published_numbers(root, shared_data, tmp_path):
    """Faisst's clusters against the model of Mahler et al.: SCIENCE section 4."""
    model = shared_data / "smacs0723/mahler2022_iclv2_best.par"
    config = load(root / "configs/smacs0723.yaml", [f"lens.path={model}"])
    results = pipeline.run(config, tmp_path / "smacs").results
    assert results["n_detected"] == 159
    assert results["beta"]["value"] == pytest.approx(0.420, rel=0.02)
    expected = {"E": 0.395, "W": 0.441, "S": 0.382, "N": 0.466}
    for sector, value in expected.items():
        assert results["beta"]["sectors"][sector] == pytest.approx(value, rel=0.05)
    assert results["correlation"]["pearson_log"] == pytest.approx(0.922, abs=0.005)
    assert results["correlation"]["spearman"] == pytest.approx(0.938, abs=0.005)
    within = {round(m["within_kpc"]): m["msun"] for m in results["mass"]["radii"]}
    assert within[128] == pytest.approx(8.19e13, rel=0.03)
    assert within[400] == pytest.approx(3.61e14, rel=0.03)
    assert results["relation"]["n_boxes_occupied"] == pytest.approx(85, abs=5)
    assert results["relation"]["n_boxes_unmasked"] == 1264
    assert results["relation"]["status"].startswith("unconstrained")
    gain = {m["name"]: m["dlnL"] for m in results["likelihood"]["maps"]}
    assert gain["kappa"] == pytest.approx(97, rel=0.1)
    assert gain["kappa^2.5"] > gain["kappa"] + 40
    assert results["tracer"]["g"] == pytest.approx(2.5, abs=0.15)
    assert "not significant" in results["beta"]["expected"]["verdict"]
    assert results["lens"]["critical"][0]["z_source"] == 1.378
    page = (tmp_path / "smacs/latest/report.html").read_text()
    assert "unconstrained" in page
    assert sorted(p.stem for p in (tmp_path / "smacs/latest/figures").glob("*.png")) == [
        "density", "kernel", "likelihood", "luminosity", "profiles", "relation", "scatter",
        "sources", "tracer",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def modules(demo, tmp_path_factory):
    """The demo's pair of modules as FITS files per band, as a user has them, with DS9 regions."""
    folder = tmp_path_factory.mktemp("modules")
    for name, store in (("a", demo.mosaic), ("b", demo.mosaic.with_name("field_module2.zarr"))):
        opened = mosaic.open_mosaic(store)
        for band in opened["band"].values:
            image = opened["sci"].sel(band=band).drop_vars("band")
            mosaic.write_map(image, folder / f"glimpse_{name}_{band.lower()}.fits")
        ra, dec = opened.gc.grid.sky(*opened.gc.grid.center)
        (folder / f"glimpse_{name}.reg").write_text(
            f'# Region file format: DS9\nfk5\ncircle({ra:.6f},{dec:.6f},2.0")\n'
        )
    shutil.copy(demo.mosaic.with_name("field_lens.par"), folder / "cats_gold_best.par")
    return folder


def test_as1063_runs_on_a_pair_of_modules(root, modules, tmp_path, capsys):
    """The file as a user would edit it: its paths only; and the small modules' radii."""
    text = (root / "configs/as1063.yaml").read_text().replace("data/glimpse", f"{modules}/glimpse")
    text = text.replace("data/cats_gold_best.par", f"{modules}/cats_gold_best.par")
    (tmp_path / "as1063.yaml").write_text(text)
    arguments = [
        "run", str(tmp_path / "as1063.yaml"), "--out", str(tmp_path / "out"), "--workers", "0",
        "--set", "mass.radius=[20]", "--set", "tiles.size=1024", "--set", QUIET,
        "--set", "profiles.slope_range=[5, 28]",
        "--set", "compare.bootstrap=4", "--set", "compare.mocks=4",
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    assert "n_detected" in capsys.readouterr().out
    results = storage.read_json(tmp_path / "out/latest/results.json")
    assert results["mask_shares"]["image"]["region"] > 0
    assert results["mask_shares"]["reference"]["region"] > 0
    assert results["profile"]["contamination_method"] == "reference"
    level = results["profile"]["contamination_arcsec2"]
    assert abs(level - 0.363) < 3 * results["profile"]["contamination_arcsec2_error"] + 0.1
    assert results["beta"]["dispersion_relative"] < 0.1
    mask = mosaic.open_map(tmp_path / "out/latest/maps.zarr/image", "mask")
    assert isinstance(mask, xr.DataArray)
    assert np.count_nonzero(mask.values & 64) == pytest.approx(np.pi * (2 / 0.03) ** 2, rel=0.01)


def test_both_roads_into_a_run_agree(root, modules, tmp_path):
    """Ingested to zarr first, or read from FITS by window: the same catalogue."""
    bands = {b: modules / f"glimpse_a_{b.lower()}.fits" for b in ("F090W", "F115W")}
    store = mosaic.ingest(tmp_path / "a.zarr", bands, chunks=512)
    common = ["reference=null", "profiles.contamination={method: outer}", "lens=null", QUIET,
              "mask.regions=[]", "profiles.slope_range=[5, 28]", "profiles.r_max=null"]  # fmt: skip
    found = []
    for name, given in (
        ("zarr", f"mosaic={{path: {store}}}"),
        ("fits", f"mosaic={{bands: {{F090W: {bands['F090W']}, F115W: {bands['F115W']}}}}}"),
    ):
        config = load(root / "configs/as1063.yaml", [given, *common])
        result = pipeline.run(config, tmp_path / name)
        assert result.results["beta"] is None
        from gcdask import catalog

        found.append(catalog.read(result.out / "catalog.parquet").compute())
    np.testing.assert_array_equal(found[0]["id"], found[1]["id"])
    np.testing.assert_array_equal(found[0]["peak"], found[1]["peak"])
