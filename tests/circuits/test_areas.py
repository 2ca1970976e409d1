"""CPR and CMD of curves whose areas are known."""

import numpy as np
import pytest

from circuits.areas import MIB_SHARES, cmd, cpr


def test_known_areas():
    assert cpr([0, 1], [0, 1]) == pytest.approx(0.5) and cmd([0, 1], [0, 1]) == pytest.approx(0.5)
    assert cpr([0, 5, 10], [1, 1, 1], 10) == pytest.approx(1) and cmd([0, 5, 10], [1, 1, 1], 10) == 0
    assert cpr([0, 1, 2], [0, 2, 0], 2) == pytest.approx(1) and cmd([0, 1, 2], [0, 2, 0], 2) == pytest.approx(1)
    assert cpr([2, 0, 1], [0, 0, 2], 2) == pytest.approx(1)  # sizes in any order


def test_a_line_on_the_log_axis_has_area_one_half():
    sizes = [0, 1, 3, 10, 99]
    line = [float(np.log1p(size) / np.log(100)) for size in sizes]
    assert cpr(sizes, line, 99, axis="log") == pytest.approx(0.5)
    early = cpr([0, 1, 99], [0, 1, 1], 99, axis="log")
    assert early == pytest.approx(1 - 0.5 * np.log(2) / np.log(100))


def test_the_nominal_version_leaves_out_what_is_below_its_first_share():
    assert cpr(MIB_SHARES, [1.0] * 10) == pytest.approx(0.999)
    assert cmd(MIB_SHARES, [0.0] * 10) == pytest.approx(0.999)
