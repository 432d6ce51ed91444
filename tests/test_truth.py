"""The simulated GLIMPSE field, whole: what the pipeline finds against what was put in."""

import numpy as np
import pytest

from gcdask import cluster, pipeline, simulate
from gcdask.config import load


@pytest.fixture(scope="module")
def glimpse(tmp_path_factory, request):
    """Results of a run on two modules of 4400 x 4400 px in four bands."""
    folder = tmp_path_factory.mktemp("glimpse")
    paths = simulate.write(simulate.as1063("glimpse", seed=1), folder / "field.zarr")
    config = load(
        request.config.rootpath / "configs/demo.yaml",
        [
            f"mosaic.path={paths['mosaic']}",
            "name=glimpse",
            "tiles.size=2048",
            "profiles.n=24",
            "profiles.slope_range=[13, 60]",
            "mass.radius=[60]",
        ],
    )
    with cluster.client(config.cluster, workers=2) as client:
        return pipeline.run(config, folder / "out", client=client).results


@pytest.mark.slow
def test_completeness_and_purity(glimpse):
    """Chance matches subtracted; sources of S/N above 2T + 2, entries above 2T."""
    assert glimpse["threshold"]["value"] >= 3
    assert glimpse["truth"]["completeness"] >= 0.95
    assert glimpse["truth"]["purity"] >= 0.90
    assert glimpse["n_detected"] == pytest.approx(28_000, rel=0.1)


@pytest.mark.slow
def test_inpainted_numbers_follow_their_intensity(glimpse):
    truth = glimpse["truth"]
    expected = truth["expected"]["density"]
    assert abs(truth["inpainted"] - expected) < 3 * np.sqrt(expected)
    # clusters bound to masked galaxies cannot be recovered: both estimators are low, and say so
    for estimator in ("density", "local"):
        assert 0.4 < truth["expected"][estimator] / truth["masked_truth"] < 1


@pytest.mark.slow
def test_the_slope_is_that_of_the_truth(glimpse):
    truth = glimpse["truth"]
    assert truth["slope"]["value"] == pytest.approx(truth["slope_truth"]["value"], abs=0.15)
    assert glimpse["profile"]["contamination_arcsec2"] == pytest.approx(
        truth["contamination_truth"], rel=0.15
    )


@pytest.mark.slow
def test_beta_of_each_wedge_is_that_of_the_truth(glimpse):
    truth = glimpse["truth"]
    assert set(truth["beta"]) == {"all", "E", "W", "S", "N"}
    for wedge, beta in truth["beta"].items():
        assert beta == pytest.approx(truth["beta_truth"][wedge], rel=0.02), wedge


@pytest.mark.slow
def test_the_mass_is_that_of_the_model(glimpse):
    """M(<60") of the CATS model is 3.22e14 Msun; the mock's model is its rounded main part."""
    assert glimpse["mass"]["msun"] == pytest.approx(3.2e14, rel=0.02)
