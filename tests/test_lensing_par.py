"""Lenstool's parameter files: what is read, what is refused, and the way back."""

import warnings

import numpy as np
import pandas as pd
import pytest

from gcdask.errors import InputError
from gcdask.lensing import LenstoolModel, read_lenstool, write_lenstool

HEAD = "runmode\n\treference 3 342.18 -44.53\n\tend\n"
COSMO = "cosmologie\n\tmodel 1\n\tH0 70.0\n\tomegaM 0.3\n\tomegaX 0.7\n\tend\n"
HALO = """potentiel O1
\tprofil 81
\tx_centre 1.5
\ty_centre -2.5
\tellipticite 0.3
\tangle_pos 40.0
\tcore_radius 5.0
\tcut_radius 100.0
\tv_disp 900.0
\tz_lens 0.348
\tend
"""
SHEAR = "potentiel O2\n\tprofil 14\n\tgamma 0.1\n\tangle_pos 50.0\n\tz_lens 0.348\n\tend\n"


def without(text, key):
    return "".join(line for line in text.splitlines(True) if key not in line)


@pytest.fixture
def par(tmp_path):
    """Write a parameter file of these sections and give its path."""

    def write(*sections, end="fini\n", head=HEAD, cosmo=COSMO):
        path = tmp_path / "best.par"
        path.write_text(head + "".join(sections) + cosmo + end)
        return path

    return write


# -- what is read -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("file", "z_lens", "count"),
    [
        ("as1063/cats_gold_best.par", 0.3475, 264),
        ("smacs0723/mahler2022_iclv0_best.par", 0.39, 145),
        ("smacs0723/mahler2022_iclv2_best.par", 0.39, 149),
    ],
)
def test_published_files_and_back(shared_data, tmp_path, file, z_lens, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = read_lenstool(shared_data / file)
        write_lenstool(model, tmp_path / "again.par")
        again = read_lenstool(tmp_path / "again.par")
    assert (model.z_lens, len(model.names)) == (z_lens, count)
    assert (model.h0, model.om0) == (70, 0.3)
    assert again.center == model.center
    pd.testing.assert_frame_equal(again.potentials, model.potentials, check_exact=True)


def test_cats_parameters_are_those_of_the_paper(shared_data):
    halo = read_lenstool(shared_data / "as1063" / "cats_gold_best.par").potentials.iloc[0]
    assert halo["name"] == "O1"
    assert halo["ellipticity"] == 0.517298
    assert (halo["core_radius"], halo["cut_radius"]) == (20.132957, 203.384663)


def test_french_and_english_are_one_model(par):
    french = read_lenstool(par(HALO, SHEAR))
    words = [
        ("potentiel", "potential"),
        ("profil", "profile"),
        ("ellipticite", "ellipticity"),
        ("x_centre", "x_center"),
        ("y_centre", "Y_CENTER"),
        ("cosmologie", "cosmology"),
    ]
    path = par(HALO, SHEAR, end="finish\n")
    text = path.read_text()
    for theirs, ours in words:
        text = text.replace(theirs, ours)
    path.write_text(text)
    pd.testing.assert_frame_equal(read_lenstool(path).potentials, french.potentials)


def test_comments_blank_lines_and_accents(par):
    path = par("# modèle\n\n", HALO.replace("v_disp 900.0", "v_disp 900.0 # km/s"))
    path.write_bytes(path.read_text().encode("latin-1").replace(b"\n", b"\r\n"))
    assert read_lenstool(path).potentials["v_disp"].tolist() == [900.0]


def test_other_sections_are_passed_over(par):
    """Limits of the fit, images, and whatever a later version writes."""
    others = (
        "image\n\tmultfile 1 arcs.dat\n\tz_m_limit 1 4.0 0 2.1 0.0 0.0\n\tforme -1\n\tend\n",
        "limit O1\n\tx_centre 1 -5. 5. 0.1\n\tv_disp 1 500. 1500. 1.\n\tprofil 12\n\tend\n",
        "observable\n\tend\n",
        "champ\n\txmin -80\n\tend\n",
    )
    plain = read_lenstool(par(HALO, SHEAR)).potentials
    pd.testing.assert_frame_equal(read_lenstool(par(*others, HALO, SHEAR)).potentials, plain)


def test_radii_in_kpc(par):
    model = read_lenstool(par(HALO))
    scale = model.field().kpc_per_arcsec
    radii = f"\tcore_radius_kpc {5 * scale}\n\tcut_radius_kpc {100 * scale}\n"
    text = without(HALO, "_radius").replace("\tend\n", radii + "\tend\n")
    in_kpc = read_lenstool(par(text)).potentials
    np.testing.assert_allclose(in_kpc[["core_radius", "cut_radius"]], [[5, 100]], rtol=1e-12)


def test_contradicting_radii_follow_lenstool_with_a_warning(par):
    path = par(HALO.replace("\tend\n", "\tcut_radius_kpc 1000.0\n\tend\n"))
    with pytest.warns(UserWarning, match="as Lenstool does"):
        model = read_lenstool(path)
    expected = 1000 / model.field().kpc_per_arcsec
    assert model.potentials["cut_radius"].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reference", "center"),
    [
        ("3 342.18 -44.53", (342.18, -44.53)),
        ("1 22:48:43.2 -44:31:48.0", (342.18, -44.53)),
        ("1 00:00:01.0 -00:30:00.0", (1 / 240, -0.5)),
    ],
)
def test_reference_modes(par, reference, center):
    head = f"runmode\n\treference {reference}\n\tend\n"
    assert read_lenstool(par(HALO, head=head)).center == pytest.approx(center, abs=1e-9)


@pytest.mark.parametrize("head", ["", *(f"runmode\n\treference {m}\n\tend\n" for m in "02")])
def test_no_sky_reference_needs_a_center(par, head):
    path = par(HALO, head=head)
    with pytest.raises(InputError, match="pass center"):
        read_lenstool(path)
    assert read_lenstool(path, center=(342.18, -44.53)).center == (342.18, -44.53)


def test_other_planes_are_set_aside(par, tmp_path):
    front = HALO.replace("O1", "front").replace("0.348", "0.2").replace("900.0", "100.0")
    path = par(front, front.replace("front", "second"), HALO)
    with pytest.warns(UserWarning, match=r"2 of 3 .* front \(z = 0\.2\), second"):
        model = read_lenstool(path)
    assert (model.z_lens, model.names) == (0.348, ["O1"])
    assert model.set_aside["name"].tolist() == ["front", "second"]
    write_lenstool(model, tmp_path / "again.par")
    with pytest.warns(UserWarning, match="set aside"):
        assert len(read_lenstool(tmp_path / "again.par").set_aside) == 2


def test_other_cosmologies_are_announced(par):
    path = par(HALO, cosmo=COSMO.replace("omegaX 0.7", "omegaX 0.6"))
    with pytest.warns(UserWarning, match="not a flat universe"):
        read_lenstool(path)
    with pytest.warns(UserWarning, match="no cosmology"):
        assert read_lenstool(par(HALO, cosmo="")).h0 == 70
    assert read_lenstool(par(HALO, cosmo=COSMO.replace("70.0", "67.7"))).h0 == 67.7
    with pytest.raises(InputError, match=r"\.par: h0 = -70.0 makes no universe"):
        read_lenstool(par(HALO, cosmo=COSMO.replace("70.0", "-70.0")))


def test_a_coreless_potential_stays_finite(par):
    with pytest.warns(UserWarning, match="no core"):
        model = read_lenstool(par(HALO.replace("core_radius 5.0", "core_radius 0.0")))
    assert np.isfinite(model.kappa_at(*model.position("O1"), 3.0))


# -- what is refused --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HALO.replace("81", "12"), r"best\.par, line 4: potentiel O1 has profile 12"),
        (without(HALO, "z_lens"), r"line 4: potentiel O1 has no z_lens"),
        (HALO.replace("0.348", "0"), "z_lens = 0"),
        *(
            (without(HALO, key), f"potentiel O1 has no {key}")
            for key in ("x_centre", "y_centre", "core_radius", "cut_radius", "v_disp")
        ),
        (without(HALO, "profil"), "has no profile"),
        (HALO.replace("900.0", "fast"), r"line 12: v_disp of potentiel O1 is 'fast', not a number"),
        (HALO.replace("900.0", "nan"), "not a number"),
        (HALO.replace("v_disp 900.0", "v_disp"), "not a number"),
        (HALO.replace("ellipticite 0.3", "ellipticite 1.0"), "ellipticity 1;"),
        (HALO.replace("ellipticite", "ellip_pot"), "ellip_pot"),
        (HALO.replace("cut_radius 100.0", "cut_radius 4.0"), "core_radius 5 and cut_radius 4"),
        (without(SHEAR, "gamma"), "potentiel O2 has no gamma"),
        (SHEAR.replace("gamma", "kappa 0.05\n\tgamma"), "kappa = 0.05"),
        ("", "no potential"),
        ("potfile\n\tfilein 3 cat.txt\n\tend\n", r"line 4: section potfile"),
    ],
)
def test_bad_potentials(par, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_lenstool(par(text))
    assert "\n" not in str(error.value)


def test_cut_off_files(par):
    whole = par(HALO, SHEAR).read_text()
    for stop, message in [
        (whole.index("v_disp"), r"ends inside potentiel O1 \(line 4\)"),
        (whole.index("fini"), "ends without fini"),
        (0, "ends without fini"),
    ]:
        path = par()
        path.write_text(whole[:stop])
        with pytest.raises(InputError, match=message):
            read_lenstool(path)
    with pytest.raises(InputError, match="O1, which begins on line 4, has no end"):
        read_lenstool(par(HALO.replace("\tend\n", ""), SHEAR))


def test_what_is_not_a_text_file(tmp_path, shared_data):
    with pytest.raises(InputError, match="not a text file"):
        read_lenstool(shared_data / "smacs0723" / "f090w_psf.fits")
    binary = tmp_path / "x.par"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not a text file"):
        read_lenstool(binary)
    for path in (tmp_path / "none.par", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_lenstool(path)


def test_a_text_that_is_no_model(shared_data):
    with pytest.raises(InputError, match="cut off or not Lenstool's"):
        read_lenstool(shared_data / "smacs0723" / "mahler2022_iclv2_arcs.dat")


def test_bad_references(par):
    for reference in ("3 here there", "x", "3 342.18"):
        with pytest.raises(InputError, match="line 2: reference"):
            read_lenstool(par(HALO, head=f"runmode\n\treference {reference}\n\tend\n"))
    with pytest.raises(InputError, match="is not RA, Dec"):
        read_lenstool(par(HALO), center=(10.0, 95.0))


# -- models made by hand ----------------------------------------------------------------------
def test_from_potentials_defaults_and_errors():
    halo = {"x_centre": 0, "y_centre": 0, "core_radius": 1, "cut_radius": 50, "v_disp": 800}
    model = LenstoolModel.from_potentials([halo, {**halo, "name": "bcg"}], (10, 20), 0.3, name="a")
    assert model.names == ["1", "bcg"]
    assert model.potentials["profile"].tolist() == [81, 81]
    same = LenstoolModel.from_potentials(model.potentials, (10, 20), 0.3)
    pd.testing.assert_frame_equal(same.potentials, model.potentials)
    mixed = pd.DataFrame([halo, {"profile": 14, "gamma": 0.1}]).fillna({"profile": 81})
    both = LenstoolModel.from_potentials(mixed, (10, 20), 0.3)
    assert both.potentials["gamma"].tolist() == [0.0, 0.1]
    for change, message in [
        ({"v": 3}, "unknown key 'v'"),
        ({"cut_radius": 0.5}, "potential 1 has core_radius"),
        ({"v_disp": np.nan}, "v_disp = nan"),
        ({"profile": 12}, "profile 12"),
        ({"v_disp": "fast"}, "v_disp = fast"),
        ({"v_disp": -3.0}, "v_disp -3"),
    ]:
        with pytest.raises(InputError, match=message):
            LenstoolModel.from_potentials([{**halo, **change}], (10, 20), 0.3)
    with pytest.raises(InputError, match="no v_disp"):
        LenstoolModel.from_potentials([{k: halo[k] for k in halo if k != "v_disp"}], (1, 2), 0.3)
    for options in ({"h0": np.nan}, {"om0": -5}, {"h0": "70"}, {"h0": 0}):
        with pytest.raises(InputError, match="makes no universe"):
            LenstoolModel.from_potentials([halo], (10, 20), 0.3, **options)
    for center in ((10,), "here"):
        with pytest.raises(InputError, match="is not RA, Dec"):
            LenstoolModel.from_potentials([halo], center, 0.3)
    with pytest.raises(InputError, match="at least one potential"):
        LenstoolModel.from_potentials([], (10, 20), 0.3)


def test_names_with_blanks_are_written_as_one_word(tmp_path):
    halo = {"x_centre": 0, "y_centre": 0, "core_radius": 1, "cut_radius": 50, "v_disp": 800}
    model = LenstoolModel.from_potentials([{**halo, "name": "main halo"}], (10, 20), 0.3)
    write_lenstool(model, tmp_path / "m.par")
    assert read_lenstool(tmp_path / "m.par").names == ["main_halo"]
    with pytest.raises(InputError, match="cannot be written"):
        write_lenstool(model, tmp_path / "none" / "m.par")
