# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest

from hf_sidenet.evaluation.curves import CurvePoint
from hf_sidenet.evaluation.plots import MAX_MARKED, plot_accuracy_cost, plot_comparison, spread_indices


CURVE = [
    CurvePoint([theta], 0.7 + 0.2 * theta, [1 - theta, theta], 0.5 + 0.5 * theta, 0.2 + 0.8 * theta, 0.3 + 0.7 * theta)
    for theta in (0.0, 0.5, 0.9, 1.0)
]
FIXED = [
    CurvePoint([1.0], 0.9, [0.0, 1.0], 1.0, 1.0, 1.0, name="MainNet alone"),
    CurvePoint([0.0], 0.7, [1.0, 0.0], 0.5, 0.2, 0.3, name="SideNet 0 alone"),
]


def run_python(code, folder):
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


def test_writes_a_png_with_three_panels(tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "curve.png"
    plot_accuracy_cost(CURVE, FIXED, path, "A title")
    assert os.listdir(tmp_path) == ["curve.png"]
    assert path.read_bytes().startswith(b"\x89PNG")
    image = matplotlib_image.imread(path)[..., :3]
    width = image.shape[1]
    for third in range(3):
        panel = image[:, third * width // 3 : (third + 1) * width // 3]
        assert (panel < 0.5).all(-1).mean() > 0.005


def test_a_comparison_draws_every_curve(tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    curves = {"one": CURVE, "two": FIXED}
    plot_comparison(curves, tmp_path / "both.png", "A title")
    plot_comparison({"one": CURVE}, tmp_path / "one.png", "A title")
    assert sorted(os.listdir(tmp_path)) == ["both.png", "one.png"]
    both, one = (matplotlib_image.imread(tmp_path / name)[..., :3] for name in ("both.png", "one.png"))
    # matplotlib's first two colours: blue and orange.
    blue, orange = ([31, 119, 180], [255, 127, 14])
    for image, colour, drawn in ((both, blue, True), (both, orange, True), (one, blue, True), (one, orange, False)):
        width = image.shape[1]
        for third in range(3):
            panel = image[:, third * width // 3 : (third + 1) * width // 3]
            close = (abs(panel * 255 - colour) < 2).all(-1)
            assert bool(close.sum() > 20) == drawn
    with pytest.raises(ValueError, match="`curves` must hold at least one point"):
        plot_comparison({"one": []}, tmp_path / "none.png", "A title")
    assert not (tmp_path / "none.png").exists()


def test_leaves_pyplot_alone(tmp_path):
    pytest.importorskip("matplotlib")
    code = (
        "import sys\n"
        "from tests.evaluation.test_plots import CURVE, FIXED\n"
        "from hf_sidenet.evaluation import plot_accuracy_cost\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"plot_accuracy_cost(CURVE, FIXED, {str(tmp_path / 'curve.png')!r}, 'A title')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    result = run_python(code, os.getcwd())
    assert result.returncode == 0, result.stderr


def test_without_matplotlib_the_pip_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "hf_sidenet\[plots\]"'):
        plot_accuracy_cost(CURVE, FIXED, tmp_path / "curve.png", "A title")
    assert os.listdir(tmp_path) == []


def test_an_empty_curve_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`curve`"):
        plot_accuracy_cost([], FIXED, tmp_path / "curve.png", "A title")


def test_marked_points_are_apart_and_few():
    assert spread_indices([(0.0, 0.0), (0.01, 0.0), (0.5, 0.0), (0.5, 0.05), (0.5, 0.5)]) == [0, 2, 4]
    assert len(spread_indices([(i / 2, 0.0) for i in range(30)])) == MAX_MARKED
