"""The models' own multiple images: read in each form, and traced back to common sources."""

import re

import numpy as np
import pandas as pd
import pytest

from gcdask.errors import InputError
from gcdask.lensing import LenstoolModel, image_scatter, read_images, read_lenstool
from gcdask.lensing.model import sky_of

CENTER = (342.18322, -44.530889)
HALO = {
    "x_centre": 0.0,
    "y_centre": 0.0,
    "ellipticity": 0.4,
    "core_radius": 5.0,
    "cut_radius": 200.0,
    "v_disp": 1000.0,
}
MODELS = {
    "iclv0": ("smacs0723/mahler2022_iclv0_best.par", "smacs0723/mahler2022_iclv0_arcs.dat"),
    "iclv2": ("smacs0723/mahler2022_iclv2_best.par", "smacs0723/mahler2022_iclv2_arcs.dat"),
    "as1063": ("as1063/cats_gold_best.par", "as1063/cats_gold_images.cat"),
}


def published(folder, name):
    model, images = MODELS[name]
    return read_lenstool(folder / model), read_images(folder / images)


@pytest.fixture
def lens():
    return LenstoolModel.from_potentials([HALO], CENTER, 0.348)


# -- reading ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "n", "known"), [("iclv0", 62, 16), ("iclv2", 60, 16), ("as1063", 50, 50)]
)
def test_published_catalogues(shared_data, name, n, known):
    images = published(shared_data, name)[1]
    assert (len(images), images["z"].notna().sum()) == (n, known)
    assert images["id"].is_unique
    assert images.groupby("system").size().between(2, 5).all()


def test_absolute_and_relative_positions_are_one_table(tmp_path):
    rows = [
        "1.1 {} {} 0.1 0.1 0 2.0 25.0",
        "1.2 {} {} 0.1 0.1 0 2.0 25.0",
        "2a {} {} 0.1 0.1 0 0.0",
    ]
    x, y = np.array([10.0, -20.0, 3.0]), np.array([-5.0, 8.0, 1.0])
    ra, dec = sky_of(x, y, CENTER)
    files = {
        "plain": ("", ra, dec),
        "absolute": ("#REFERENCE 0\n", ra, dec),
        "relative": (f"#REFERENCE 3 {CENTER[0]} {CENTER[1]}\n# a comment\n", x, y),
    }
    tables = []
    for name, (head, a, b) in files.items():
        path = tmp_path / name
        lines = [
            r.format(repr(float(p)), repr(float(q))) for r, p, q in zip(rows, a, b, strict=True)
        ]
        path.write_text(head + "\n".join(lines) + "\n\n")
        tables.append(read_images(path))
        # the file's own reference counts, whatever is given beside it
        tables.append(read_images(path, center=(10.0, 20.0)))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=1e-12)
    assert tables[0]["system"].tolist() == ["1", "1", "2"]
    assert tables[0]["z"].isna().tolist() == [False, False, True]
    assert tables[0]["mag"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.1 342.1 -44.5 0.1\n", "line 1: .* is not an image"),
        ("# nothing\n", "has no images"),
        ("#REFERENCE 3\n1.1 3 4 0.1 0.1 0 2.0\n", "pass center"),
        ("#REFERENCE 2\n1.1 3 4 0.1 0.1 0 2.0\n", "line 1: .* is not a reference"),
        ("#REFERENCE 3 here there\n", "is not a reference"),
        ("1.1 nan -44.5 0.1 0.1 0 2.0\n", "is not an image"),
    ],
)
def test_bad_catalogues(tmp_path, text, message):
    path = tmp_path / "arcs.dat"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_images(path)
    assert "\n" not in str(error.value)


# -- tracing ----------------------------------------------------------------------------------
def test_perfect_images_do_not_scatter_and_moved_ones_do(lens):
    found = lens.counter_images(*lens.sky(18.0, 10.0), 3.0)
    images = found.assign(system="1", z=3.0)
    perfect = image_scatter(lens, images)
    assert float(perfect.source_rms_total) < 1e-7
    assert float(perfect.image_rms_total) < 1e-5
    shifted = images.assign(dec=images["dec"] + np.array([0.1, *[0.0] * (len(images) - 1)]) / 3600)
    moved = image_scatter(lens, shifted)
    beta = np.array(lens.xy(*lens.trace(shifted["ra"].to_numpy(), shifted["dec"].to_numpy(), 3.0)))
    expected = np.sqrt(((beta - beta.mean(1, keepdims=True)) ** 2).sum(0).mean())
    assert float(moved.source_rms_total) == pytest.approx(expected)
    assert 0.01 < float(moved.image_rms_total) < 0.3
    assert moved.source_rms.attrs["units"] == "arcsec"
    assert (moved.n_images.dtype, moved.n_images.item()) == (np.int64, len(images))


def test_images_that_cannot_be_used_are_counted(lens):
    found = lens.counter_images(*lens.sky(18.0, 10.0), 3.0).assign(system="1", z=3.0)
    extra = pd.DataFrame(
        {
            "system": ["2", "2", "3", "4", "4"],
            "z": [np.nan, np.nan, 2.0, 0.3, 0.3],
            "ra": CENTER[0],
            "dec": CENTER[1],
        }
    )
    scatter = image_scatter(lens, pd.concat([found, extra]))
    assert (scatter.n_skipped.item(), scatter.system.values.tolist()) == (5, ["1"])
    none = image_scatter(lens, extra)
    assert none.status.item().startswith("unconstrained")
    assert np.isnan(none.source_rms_total)
    assert (none.n_skipped.item(), none.sizes["system"]) == (5, 0)
    with pytest.raises(InputError, match="no system"):
        image_scatter(lens, extra.drop(columns="system"))


@pytest.mark.parametrize(
    ("name", "source_rms", "image_rms", "used", "skipped"),
    [
        ("iclv0", 0.432, 0.883, 16, 46),
        ("iclv2", 0.114, 0.321, 16, 44),
        ("as1063", 0.196, 0.555, 50, 0),
    ],
)
def test_published_images_map_back_to_common_sources(
    shared_data, name, source_rms, image_rms, used, skipped
):
    scatter = image_scatter(*published(shared_data, name))
    assert scatter.n_images.sum().item() == used
    assert scatter.n_skipped.item() == skipped
    assert not scatter.n_lost.any()
    assert float(scatter.source_rms_total) < 0.5
    assert float(scatter.source_rms_total) == pytest.approx(source_rms, abs=1e-3)
    assert float(scatter.image_rms_total) == pytest.approx(image_rms, abs=2e-3)


@pytest.mark.parametrize(("name", "rms"), [("iclv0", 1.15), ("iclv2", 0.32)])
def test_image_rms_is_the_one_that_lenstool_printed(shared_data, name, rms):
    """With the redshifts that the fit found for the systems without one."""
    lens, images = published(shared_data, name)
    text = (shared_data / MODELS[name][0]).read_text()
    fitted = {str(int(float(k))): float(z) for k, z in re.findall(r"^#(\S+) z:(\S+)", text, re.M)}
    images["z"] = images["z"].fillna(images["system"].map(fitted))
    assert float(image_scatter(lens, images).image_rms_total) == pytest.approx(rms, abs=0.005)


def test_a_shear_scales_with_the_distance_ratio(shared_data):
    """The images of AS1063 decide: without the factor their sources scatter three times as far."""
    lens, images = published(shared_data, "as1063")
    shear = lens.only([lens.names[1]])
    assert shear.potentials["profile"].tolist() == [14]

    class Fixed:
        z_lens, name, xy, sky = lens.z_lens, lens.name, lens.xy, lens.sky

        def deflection_at(self, ra, dec, z):
            rest = 1 - lens.ratio(z)
            extra = shear.deflection_at(ra, dec, np.inf)
            return tuple(
                a + rest * b for a, b in zip(lens.deflection_at(ra, dec, z), extra, strict=True)
            )

        def trace(self, ra, dec, z):
            (x, y), (a, b) = self.xy(ra, dec), self.deflection_at(ra, dec, z)
            return self.sky(x - a, y - b)

        jacobian_at = lens.jacobian_at

    rms = float(image_scatter(Fixed(), images).source_rms_total)
    assert rms == pytest.approx(0.561, abs=2e-3)
