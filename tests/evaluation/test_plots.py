# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import pytest

from hf_sidenet.evaluation import (
    ExitEvaluation,
    plot_accuracy_cost_bands,
    plot_confidences,
    plot_exit_shares,
    plot_reliability,
    save_figures,
)
from hf_sidenet.evaluation.curves import CurvePoint
from hf_sidenet.evaluation.plots import (
    MAX_MARKED,
    is_free,
    plot_accuracy_cost,
    plot_comparison,
    short_thresholds,
    spread_indices,
    text_box,
)
from tests.evaluation.test_exits import COSTS, FIVE, TWO, random_records


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
    # matplotlib's first two colors: blue and orange.
    blue, orange = ([31, 119, 180], [255, 127, 14])
    for image, color, drawn in ((both, blue, True), (both, orange, True), (one, blue, True), (one, orange, False)):
        width = image.shape[1]
        for third in range(3):
            panel = image[:, third * width // 3 : (third + 1) * width // 3]
            close = (abs(panel * 255 - color) < 2).all(-1)
            assert bool(close.sum() > 20) == drawn
    with pytest.raises(ValueError, match="`curves` must hold at least one point"):
        plot_comparison({"one": []}, tmp_path / "none.png", "A title")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.medium
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


def test_a_text_goes_where_nothing_is():
    box = text_box((0.5, 0.5), "0.95")
    assert box == pytest.approx((0.515, 0.445, 0.579, 0.495))
    assert is_free(box, [])
    assert is_free(box, [(0.6, 0.4, 0.7, 0.5), (0.4, 0.5, 0.7, 0.6)])
    assert not is_free(box, [(0.55, 0.3, 0.56, 0.9)])
    assert not is_free(text_box((0.95, 0.5), "0.95"), [])
    assert not is_free(text_box((0.5, 0.03), "0.95"), [])


def test_thresholds_are_short_but_never_look_like_one():
    assert short_thresholds([0.123456, 0.9]) == "0.1235/0.9"
    assert short_thresholds([0.99999]) == "0.99999"
    assert short_thresholds([1.0, 1.0]) == "1"


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """`figures(plot, ...)` draws into a file and returns the axes of the figure."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig

    def remember(figure, *args, **kwargs):
        drawn.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)

    def draw(plot, *args):
        plot(*args, tmp_path / "figure.png", "A title")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert drawn[-1].get_suptitle() == "A title"
        return [axes for axes in drawn[-1].axes if axes.axison], [text.get_text() for text in _legends(drawn[-1])]

    return draw


def _legends(figure):
    return [text for legend in figure.legends for text in legend.get_texts()]


def evaluation(rows=FIVE, costs=COSTS, thresholds=(0.8, 0.8), **options):
    return ExitEvaluation.from_records(rows, costs, thresholds=list(thresholds), num_resamples=20, **options)


def lines_of(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def test_bands_show_path_reference_oracle_and_choice(figures):
    made = evaluation(path=[[0.8, 0.8], [1.0, 1.0], [0.0, 0.0]])
    panels, legend = figures(plot_accuracy_cost_bands, made)
    assert legend == ["95 % interval", "routed, θ as written", "MainNet alone", "oracle", "chosen θ = 0.8"]
    for axes, currency in zip(panels, ("params", "flops", "milliseconds"), strict=True):
        # Sorted by cost, although costs along the path go up and down.
        x, y = lines_of(axes, "routed, θ as written").get_data()
        assert list(x) == sorted(getattr(point, currency).value for point in made.curve)
        assert list(y) == pytest.approx([40, 40, 40])
        for label, cost, accuracy in (
            ("MainNet alone", 1.0, 60),
            ("oracle", getattr(made.oracle, currency).value, 80),
            ("chosen θ = 0.8", getattr(made.routed, currency).value, 40),
        ):
            (x,), (y,) = lines_of(axes, label).get_data()
            assert (x, y) == (pytest.approx(cost), pytest.approx(accuracy))
        band = axes.collections[0].get_paths()[0].get_extents()
        low, high = (pick(getattr(p.accuracy, end) for p in made.curve) for pick, end in ((min, "low"), (max, "high")))
        assert (band.y0, band.y1) == (pytest.approx(100 * low), pytest.approx(100 * high))
        assert axes.get_xlabel().endswith("per row, fraction of the MainNet's")


def test_reliability_bars_are_the_bins_and_the_errors_are_written(figures):
    panels, legend = figures(plot_reliability, evaluation())
    assert legend == ["perfectly calibrated", "at the bin's mean confidence", "accuracy"]
    diagrams, counts = panels[:3], panels[3:]
    assert [axes.get_title() for axes in diagrams] == ["SideNet 0", "SideNet 1", "MainNet"]
    # SideNet 0: at 0.6 one of three, at 0.9 one of two.
    bars = [(bar.get_x(), bar.get_height()) for bar in diagrams[0].patches]
    assert bars == [(pytest.approx(8 / 15), pytest.approx(100 / 3)), (pytest.approx(13 / 15), pytest.approx(50))]
    assert [bar.get_height() for bar in counts[0].patches if bar.get_height()] == [3, 2]
    written = diagrams[2].texts[0].get_text()
    assert "ECE, 15 bins over 0-1: 55.0 % [" in written
    assert "ECE, 8 bins over 0.2-1: 55.0 % [" in written
    assert "0 rows below 0.2" in written
    assert lines_of(diagrams[1], "perfectly calibrated").get_xydata().tolist() == [[0, 0], [1, 100]]


def test_shares_are_stacked_to_all_rows(figures):
    made = evaluation(path=[[1.0, 1.0], [0.8, 0.8], [0.0, 0.0]])
    (shares, costs), _ = figures(plot_exit_shares, made)
    # Three exits at three points, at the chosen θ, and for the oracle.
    heights = [[bar.get_height() for bar in container] for container in shares.containers]
    assert heights == [
        pytest.approx([0, 40, 100, 40, 60]),
        pytest.approx([0, 20, 0, 20, 40]),
        pytest.approx([100, 40, 0, 40, 0]),
    ]
    assert [bar.get_y() + bar.get_height() for bar in shares.containers[-1]] == pytest.approx([100] * 5)
    # Distinguishable without color.
    looks = {(bars[0].get_hatch(), bars[0].get_facecolor()) for bars in shares.containers}
    assert len(looks) == 3
    assert [text.get_text() for text in costs.get_xticklabels()] == ["1", "0.8", "0", "chosen: 0.8", "oracle"]
    assert lines_of(costs, "FLOPs").get_ydata() == pytest.approx([1.1, 0.64, 0.25])
    assert len({line.get_linestyle() for line in costs.lines[::2]}) == 3


def test_confidences_of_right_answers_go_up_and_of_wrong_ones_down(figures):
    panels, legend = figures(plot_confidences, evaluation(), FIVE)
    assert legend == ["θ: rows above it exit", "right answers", "wrong answers"]
    right, wrong = ([bar.get_height() for bar in container] for container in panels[0].containers)
    # SideNet 0 of 5 rows: right at 0.6 and 0.9, wrong at 0.6 twice and at 0.9.
    assert sorted(right)[-3:] == pytest.approx([0, 20, 20])
    assert sorted(wrong)[:3] == pytest.approx([-40, -20, 0])
    assert [lines_of(axes, "θ: rows above it exit").get_xdata()[0] for axes in panels[:2]] == [0.8, 0.8]
    assert "θ" not in panels[2].get_title()
    assert len([line for line in panels[2].lines if line.get_label().startswith("θ")]) == 0


def test_confidences_leave_out_rows_without_numbers(figures):
    logits = FIVE.exit_logits.clone()
    logits[0, 0] = float("nan")
    rows = type(FIVE)(logits, FIVE.labels, FIVE.mainnet_logits)
    panels, _ = figures(plot_confidences, evaluation(rows), rows)
    for axes, total in zip(panels, (80, 100, 100), strict=True):
        assert sum(abs(bar.get_height()) for bar in axes.patches) == pytest.approx(total)


def test_records_of_another_evaluation_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`records` must be those of the evaluation, 5 rows and 3 exits, got 40 rows"):
        save_figures(evaluation(), random_records(0), tmp_path / "new", "A title")
    assert not (tmp_path / "new").exists()


@pytest.mark.medium
@pytest.mark.parametrize(
    "made",
    [
        pytest.param((FIVE, COSTS, [0.8, 0.8], None), id="three exits"),
        pytest.param((random_records(0, num_exits=2), TWO, [1.0], [[1.0]]), id="no row exits early"),
        pytest.param((random_records(0, num_labels=10), COSTS, [0.5, 0.6], []), id="no path"),
        pytest.param((FIVE.select([0]), COSTS, [0.8, 0.8], None), id="one row"),
    ],
)
def test_saves_four_figures(made, tmp_path):
    pytest.importorskip("matplotlib")
    rows, costs, thresholds, path = made
    paths = save_figures(evaluation(rows, costs, thresholds, path=path), rows, tmp_path / "a" / "b", "A title")
    names = ["accuracy_cost.png", "reliability.png", "exit_shares.png", "confidences.png"]
    assert paths == [tmp_path / "a" / "b" / name for name in names]
    assert sorted(os.listdir(tmp_path / "a" / "b")) == sorted(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
