"""A run that asks for the comparison in depth: from a catalogue whose truth is known."""

import json

import numpy as np
import pytest

from gcdask import catalog, density, lensing, mosaic, pipeline, simulate
from gcdask.config import load
from gcdask.errors import InputError
from gcdask.grid import Grid
from gcdask.pipeline.measures import MAGNIFIED

POWER, LEVEL = 1.5, 0.3
DEPTH = """
compare:
  bootstrap: 8
  mocks: 6
  kernel: {alphas: [1.0, 1.4, 1.8], softenings: [0.5, 1.2, 2.4], radii: [3, 45]}
  transfer: {axis: 90}
profiles:
  n: 8
  outer_range: [20, 55]
  contamination: {method: given, value: 0.3, count_slope: 0.2}
luminosity: {mag: mag, edges: [28, 31], limit: 30.5, completeness: [[28, 1.0], [31, 0.9]]}
magnification: {path: behind.csv, z_source: 2.0}
mass: {radius: [20]}
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Folder with a lens, its images, a catalogue that follows kappa^1.5, and a configuration."""
    folder = tmp_path_factory.mktemp("given")
    lens = simulate.as1063("small").lens
    lensing.write_lenstool(lens, folder / "lens.par")
    heavier = lens.potentials.assign(v_disp=lens.potentials["v_disp"] * 1.03)
    other = lensing.LenstoolModel.from_potentials(heavier, lens.center, lens.z_lens)
    lensing.write_lenstool(other, folder / "other.par")
    grid = Grid.tangent(lens.center, (300, 300), 0.4)
    kappa = lens.kappa(grid, 3.0).clip(max=2)
    rate = (3.0 * kappa**POWER + LEVEL).assign_attrs(kappa.attrs)
    table = density.draw_sources(rate, seed=4).compute()
    rng = np.random.default_rng(0)
    magnitudes = 34.1 + 1.3 * rng.standard_normal(100 * len(table))
    table["mag"] = rng.permutation(np.sort(magnitudes)[: len(table)])  # the bright tail
    catalog.write(table, folder / "clusters.parquet")
    family = lens.counter_images(342.186, -44.5265, 2.0)
    rows = [f"1.{i} {r.ra!r} {r.dec!r} 0.2 0.2 0 2.0 25" for i, r in enumerate(family.itertuples())]
    (folder / "arcs.dat").write_text("#REFERENCE 0\n" + "\n".join(rows) + "\n")
    family[["ra", "dec"]].to_csv(folder / "behind.csv", index=False)
    (folder / "run.yaml").write_text(
        "catalog: {path: clusters.parquet, size: 119, pixel: 0.4}\n"
        f"field: {{center: [{lens.center[0]}, {lens.center[1]}], z_lens: {lens.z_lens}}}\n"
        "lens: {path: lens.par, others: {heavier: other.par}, images: arcs.dat,"
        " critical: [2.0]}\n" + DEPTH
    )
    return folder


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    return pipeline.run(load(given / "run.yaml"), tmp_path_factory.mktemp("out") / "deep")


def test_every_question_has_its_answer(done):
    r = done.results
    assert abs(r["tracer"]["g"] - POWER) < 4 * r["tracer"]["g_error"]
    best = r["likelihood"]["maps"]
    assert [m["rank"] for m in best] == list(range(1, len(best) + 1))
    assert r["likelihood"]["best"] == best[0]["name"] != "uniform"
    assert 0 < r["goodness"]["p_value"] <= 1
    law = r["relation"]["poisson"]
    assert abs(law["b"] - 1 / POWER) < 4 * law["b_error"]
    assert abs(law["n0"] - LEVEL) < 4 * law["n0_error"]
    assert abs(r["transfer"]["bias"]) < 0.15
    beta = r["beta"]
    assert 0.2 < beta["bootstrap_error"] / beta["error"] < 5
    assert beta["clean"]["value"] > beta["value"]  # contaminants add to rho, not to kappa
    assert beta["expected"]["n_mocks"] == 6
    assert "geometric floor" in beta["expected"]["verdict"]
    pixels = [row["pixel"] for row in beta["by_resolution"]]
    assert pixels == pytest.approx([0.4, 0.8, 1.6, 3.2])
    assert 1.0 <= r["kernel"]["alpha"] <= 1.8
    assert r["profile"]["outer_range"] == [20, 55]
    assert np.isfinite(r["profile"]["slope_outer"])
    assert r["luminosity"]["n_used"] > 100


def test_the_lens_is_tested_by_its_images(done):
    lens = done.results["lens"]
    (ring,) = lens["critical"]
    assert 15 < ring["theta_e"] < 30
    own, other = lens["images"]
    assert (own["model"], other["model"]) == ("lens", "heavier")
    assert own["source_rms"] < 1e-3 < other["source_rms"]


def test_sources_behind_the_lens_get_their_magnification(done, given):
    table = catalog.read(done.out / MAGNIFIED).compute().sort_values("ra", ignore_index=True)
    lens, other = (lensing.read_lenstool(given / f) for f in ("lens.par", "other.par"))
    mu = np.abs([m.magnification_at(table["ra"], table["dec"], 2.0) for m in (lens, other)])
    np.testing.assert_allclose(table["mu"], mu.mean(0), rtol=1e-6)
    np.testing.assert_allclose(table["mu_error"], mu.std(0, ddof=1), rtol=1e-6)


def test_numbers_have_units_figures_and_a_place_in_the_report(done):
    units = done.results["units"]
    for name in ("tracer.contamination", "lens.critical.theta_e", "kernel.softening"):
        assert units[name]
    assert units["beta.clean.value"] == units["beta.value"]
    drawn = {p.stem for p in (done.out / "figures").glob("*.png")}
    assert drawn >= {"likelihood", "tracer", "kernel", "transfer", "luminosity", "density"}
    report = (done.out / "report.html").read_text()
    for title in ("Likelihood of maps", "Kernel of the density", "Lens model", "Einstein radius"):
        assert title in report
    told = json.loads((done.out / "results.json").read_text())
    assert any(n.startswith("Beta by sector: the observed") for n in told["notes"])


def test_images_and_other_models_do_not_redo_the_maps(done, given, caplog):
    caplog.set_level("INFO")
    config = load(given / "run.yaml", ["lens.critical=[3.0]", "lens.images=null"])
    again = pipeline.run(config, done.out.parents[1])
    assert "maps: unchanged" in caplog.messages
    assert again.results["lens"]["critical"][0]["z_source"] == 3.0
    assert "images" not in again.results["lens"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("luminosity.mag=f200w", "luminosity.mag: the catalogue has no column 'f200w'"),
        ("lens.critical=[0.2]", r"lens.critical\[0\]: 0.2 is not behind the lens"),
        ("magnification.z_source=0.3", "magnification.z_source: 0.3 is not behind the lens"),
        ("lens.others={x: arcs.dat}", "arcs.dat ends inside"),
        ("lens.images=lens.par", "lens.par"),
        ("compare.mocks=1", "compare.mocks.*1 shows no scatter"),
        ("compare.kernel.alphas=[2, 1, 3]", "compare.kernel.alphas.*increasing"),
        ("luminosity.flux=mag", "either flux or mag"),
        ("luminosity.completeness=[[27, 1], [29, 1.2]]", "completeness.*shares from 0 to 1"),
        ("luminosity.edges=[24, 24.3]", "luminosity.edges.*fewer than three bins"),
        ("magnification.path=nothing.csv", "magnification.path: .*does not exist"),
    ],
)
def test_mistakes_are_named_before_any_work(given, tmp_path, monkeypatch, override, message):
    monkeypatch.chdir(given)
    with pytest.raises(InputError, match=message) as told:
        pipeline.run(load(given / "run.yaml", [override]), tmp_path / "out")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_map_of_kappa_traces_no_rays(given, tmp_path):
    lens = lensing.read_lenstool(given / "lens.par")
    kappa = lens.kappa(Grid.tangent(lens.center, (310, 310), 0.4), 3.0)
    mosaic.write_map(kappa, tmp_path / "kappa.fits")
    wanted = [f"lens={{path: {tmp_path}/kappa.fits, z_source: 3.0, z_lens: {lens.z_lens}, "
              "critical: [2.0]}"]  # fmt: skip
    with pytest.raises(InputError, match="needs a model that traces rays"):
        pipeline.dry_run(load(given / "run.yaml", wanted))


def test_a_deflection_map_serves_as_a_lens(given, tmp_path):
    """Curves, images and magnifications come from maps as they do from parameters."""
    lens = lensing.read_lenstool(given / "lens.par")
    maps = lens.deflection(Grid.tangent(lens.center, (460, 460), 0.3), 3.0)
    for axis in "xy":
        mosaic.write_map(maps[f"alpha_{axis}"], tmp_path / f"{axis}.fits")
    section = (
        f"lens={{path: {tmp_path}/x.fits, path_y: {tmp_path}/y.fits, z_source: 3.0, "
        f"z_lens: {lens.z_lens}, images: {given}/arcs.dat, critical: [2.0]}}"
    )
    quick = ["compare={bootstrap: 0, mocks: 0, likelihood: false}", "luminosity=null"]
    config = load(given / "run.yaml", [section, *quick])
    found = pipeline.run(config, tmp_path / "out").results["lens"]
    assert found["images"][0]["source_rms"] < 0.05
    ring = lens.einstein_radius(2.0)
    assert found["critical"][0]["theta_e"] == pytest.approx(float(ring["theta_e"]), rel=0.01)


def test_no_source_is_missed_where_none_was_looked_for(given, tmp_path):
    """A uniform catalogue cut at a radius does not follow kappa, though it ends in the middle."""
    lens = lensing.read_lenstool(given / "lens.par")
    grid = Grid.tangent(lens.center, (240, 240), 0.5)
    uniform = density.draw_sources(grid.wrap(np.full(grid.shape, 1.0), "rate", "arcsec-2"), 7)
    catalog.write(uniform.compute(), tmp_path / "uniform.parquet")
    cut = f"catalog={{path: {tmp_path}/uniform.parquet, size: 119, pixel: 0.5, radius: 25}}"
    quick = [
        "compare={bootstrap: 0, mocks: 0}",
        "profiles.contamination={method: outer}",
        *("luminosity=null", "magnification=null", "lens.images=null", "lens.critical=[]"),
    ]
    result = pipeline.run(load(given / "run.yaml", [cut, *quick]), tmp_path / "out").results
    assert result["likelihood"]["area"] == pytest.approx(np.pi * 25**2, rel=0.01)
    gain = {m["name"]: m["dlnL"] for m in result["likelihood"]["maps"]}
    assert gain["kappa"] < 0
    assert abs(result["tracer"]["g"]) < 0.3
    assert result["relation"]["n_boxes_unmasked"] == pytest.approx(np.pi * 25**2 / 9, rel=0.1)


def test_an_unconstrained_contamination_does_not_end_a_run(given, tmp_path):
    few = "catalog={path: clusters.parquet, size: 20, pixel: 0.4, radius: 2}"
    joint = ["profiles.contamination={method: joint}", "luminosity=null", "magnification=null",
             "compare={bootstrap: 0, mocks: 2}", "lens.images=null"]  # fmt: skip
    few = few.replace("clusters.parquet", str(given / "clusters.parquet"))
    result = pipeline.run(load(given / "run.yaml", [few, *joint]), tmp_path / "out").results
    assert result["profile"]["contamination_status"].startswith("unconstrained")
    assert result["profile"]["contamination_arcsec2"] is None
    assert np.isfinite(result["beta"]["value"])
