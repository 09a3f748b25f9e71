"""Figures show the numbers they are given, say what they are, and leave no trace in matplotlib."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from toy_results import history, probabilities, toy_results, without_images

from margformer_fast.errors import DataError, OutputError
from margformer_fast.evaluation import (
    accuracy_figures,
    colour_image,
    embedding_figures,
    figures,
    learning_figures,
    metrics,
    mistakes_figure,
    score_figures,
    style,
)
from margformer_fast.evaluation.results import Outcome


def report_figures(*results):
    """Return the figures of a report, out of their groups."""
    return [named for group in figures.report_figures(*results) for named in group.figures]


def words(figure):
    """Return all text of a figure that has been drawn."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


def lines(axes, colour, points=2):
    """Return the (x, y) of the lines of one colour with so many points or more."""
    return [
        np.array(line.get_data(), float)
        for line in axes.get_lines()
        if to_hex(line.get_color()) == colour.lower() and len(line.get_xdata()) >= points
    ]


@pytest.mark.parametrize(("task", "simulated"), [("sg", True), ("sgq", False)])
def test_every_figure_is_drawn_and_says_what_it_shows(rng, task, simulated):
    header, test, outcomes = toy_results(rng, task=task, simulated=simulated)
    drawn = {named.stem: named for named in report_figures(header, test, outcomes)}
    assert set(drawn) == {
        "confusion", "accuracy_magnitude", "accuracy_compactness", "mistakes", "differences", "roc",
        "precision_recall", "operating_points", "reliability", "embedding", "cosines", "learning_simclr",
    }  # fmt: skip
    for named in drawn.values():
        assert isinstance(named.figure, Figure)
        picture = imread(io.BytesIO(style.png(named.figure)))
        assert picture.shape[0] > 300
        assert picture.shape[1] > 600
        # Something is drawn in the body, not only in the heading.
        assert picture[150:, :, :3].std() > 0.01
        text = words(named.figure)
        assert any(header.title in line for line in text)
        assert ("simulated data" in text) == simulated
        assert named.caption.endswith(".")


@pytest.mark.parametrize(("task", "experiment"), [("sg", 1), ("sgq", 2)])
def test_words_lie_in_the_figure_and_not_on_each_other(rng, task, experiment):
    for named in report_figures(*toy_results(rng, task=task, experiment=experiment)):
        FigureCanvasAgg(named.figure).draw()
        passed_over = set()  # ticks beyond the axis are not drawn, and of hidden axes nothing is
        for axes in named.figure.axes:
            passed_over |= set() if axes.get_visible() else set(axes.findobj(Text))
            for axis in (axes.xaxis, axes.yaxis):
                passed_over |= {*axis.get_ticklabels(), *axis.get_minorticklabels()}
        placed = [
            (text.get_text(), text.get_window_extent())
            for text in named.figure.findobj(Text)
            if text.get_visible() and text.get_text().strip() and text not in passed_over
        ]
        width, height = named.figure.canvas.get_width_height()
        for said, box in placed:
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            assert inside, f"{named.stem}: {said!r} leaves the figure"
        for (one, box), (other, place) in itertools.combinations(placed, 2):
            across = min(box.x1, place.x1) - max(box.x0, place.x0)
            along = min(box.y1, place.y1) - max(box.y0, place.y0)
            assert min(across, along) < 2, f"{named.stem}: {one!r} lies on {other!r}"


def test_matplotlib_is_left_as_it_was(rng):
    before = dict(mpl.rcParams)
    header, test, outcomes = toy_results(rng, n=embedding_figures.TSNE_FEWEST - 1)
    for named in report_figures(header, test, outcomes):
        style.png(named.figure, dpi=50)
    assert dict(mpl.rcParams) == before


def test_pyplot_is_never_imported():
    code = (
        "import sys, numpy as np; sys.path.insert(0, 'tests'); from toy_results import toy_results\n"
        "from margformer_fast.evaluation import figures, style\n"
        "assert 'matplotlib' not in sys.modules and 'sklearn' not in sys.modules, 'heavy import'\n"
        "results = toy_results(np.random.default_rng(1), n=40)\n"
        "for group in figures.report_figures(*results):\n"
        "    for named in group.figures: style.png(named.figure)\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_figure_gives_the_same_bytes_twice(rng):
    header, test, outcomes = toy_results(rng)
    first, second = (style.png(score_figures.roc_curves(header, test, outcomes)) for _ in range(2))
    assert first == second


def test_the_user_style_does_not_show(rng):
    header, test, outcomes = toy_results(rng)
    plain = style.png(score_figures.confusion_matrices(header, test, outcomes))
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 20, "savefig.facecolor": "red"}):
        assert style.png(score_figures.confusion_matrices(header, test, outcomes)) == plain


def test_confusion_matrices_show_percent_and_counts(rng):
    header, test, outcomes = toy_results(rng, task="sgq", runs=1)
    text = words(score_figures.confusion_matrices(header, test, outcomes[:1]))
    table = metrics.confusion(test.label, metrics.predict(outcomes[0].probability), 3)
    for i in range(3):
        for j in range(3):
            assert f"{100 * table[i, j] / table[i].sum():.1f} %" in text
            assert f"{table[i, j]:,}" in text
    assert f"accuracy {100 * np.trace(table) / len(test):.2f} %, 1 run" in text


def test_confusion_counts_are_means_over_runs(rng):
    header, test, _ = toy_results(rng)
    probability = [np.eye(2)[[k] * len(test)] for k in (0, 1)]
    outcomes = [Outcome("m", seed, p) for seed, p in enumerate(probability)]
    text = words(score_figures.confusion_matrices(header, test, outcomes))
    for k in (0, 1):
        assert text.count(f"{np.count_nonzero(test.label == k) / 2:,.0f}") >= 2
    assert text.count("50.0 %") == 4


def test_a_class_without_objects_has_no_percent(rng):
    header, test, _ = toy_results(rng, task="sgq")
    test = replace(test, label=np.where(test.label == 1, 0, test.label))
    outcome = Outcome("m", 0, probabilities(rng, test.label, 3))
    text = words(score_figures.confusion_matrices(header, test, [outcome]))
    assert text.count("-") == 3


@pytest.mark.parametrize("methods", [1, 9])
def test_any_number_of_methods_fits(rng, methods):
    header, test, _ = toy_results(rng)
    outcomes = [Outcome(f"method {k}", 0, probabilities(rng, test.label, 2)) for k in range(methods)]
    for make in (
        score_figures.confusion_matrices,
        score_figures.roc_curves,
        score_figures.reliability_diagram,
        accuracy_figures.accuracy_against_magnitude,
    ):
        figure = make(header, test, outcomes)
        style.png(figure, dpi=50)
        assert all(any(f"method {k}" in text for text in words(figure)) for k in range(methods))


def test_roc_lines_are_the_roc(rng):
    header, test, outcomes = toy_results(rng, runs=1)
    figure = score_figures.roc_curves(header, test, outcomes)
    curve = metrics.roc_curve(test.label == 1, outcomes[0].probability[:, 1])
    drawn = lines(figure.axes[0], style.METHOD_COLOURS[0], points=10)
    np.testing.assert_array_equal(drawn[0], [curve.false_positive_rate, curve.true_positive_rate])
    area = metrics.roc_auc(test.label == 1, outcomes[0].probability[:, 1])
    text = words(figure)
    assert f"{area:.4f}" in text
    assert "decides only" in text
    # In the corner the line starts at half an object and then follows the curve.
    corner = lines(figure.axes[1], style.METHOD_COLOURS[0], points=10)[0]
    false = curve.false_positive_rate
    assert corner[0, 0] == 0.5 / np.count_nonzero(test.label == 0)
    assert corner[1, 0] == curve.true_positive_rate[false == 0].max()
    np.testing.assert_array_equal(corner[:, 1:], [false[false > 0], curve.true_positive_rate[false > 0]])


def test_roc_markers_are_the_decisions(rng):
    header, test, outcomes = toy_results(rng, runs=1)
    axes = score_figures.roc_curves(header, test, outcomes).axes[0]
    colour = style.METHOD_COLOURS[2]
    dots = [line for line in axes.get_lines() if line.get_color() == colour and len(line.get_xdata()) == 1]
    predicted = metrics.predict(outcomes[2].probability)
    assert outcomes[2].decides_only
    expected = [np.mean(predicted[test.label == k] == 1) for k in (0, 1)]
    assert [dots[0].get_xdata()[0], dots[0].get_ydata()[0]] == pytest.approx(expected)


def test_roc_of_three_classes_with_one_absent(rng):
    header, test, _ = toy_results(rng, task="sgq")
    test = replace(test, label=np.where(test.label == 1, 0, test.label))
    figure = score_figures.roc_curves(header, test, [Outcome("m", 0, probabilities(rng, test.label, 3))])
    text = words(figure)
    assert "GALAXY against others" in text
    assert "QSO against others" not in text
    style.png(figure)


def test_accuracy_lines_are_the_bins(rng):
    header, test, outcomes = toy_results(rng, n=400)
    figure = accuracy_figures.accuracy_against_magnitude(header, test, outcomes)
    mine = [run for run in outcomes if run.method == "simclr"]
    right = np.mean([metrics.predict(run.probability) == test.label for run in mine], axis=0)
    edges = metrics.magnitude_edges(test.r_obs)
    for axes, who in zip(figure.axes, (test.label >= 0, test.label == 0, test.label == 1), strict=False):
        bins = metrics.accuracy_by_magnitude(test.r_obs[who], right[who], edges, minimum=20)
        drawn = lines(axes, style.METHOD_COLOURS[0])[0]
        np.testing.assert_allclose(drawn, [bins.centre, bins.accuracy])
        band = axes.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(bins.low.min())
        assert band[:, 1].max() == pytest.approx(bins.high.max())


def test_too_few_objects_for_magnitude_bins(rng):
    header, test, outcomes = toy_results(rng, n=14)
    text = words(accuracy_figures.accuracy_against_magnitude(header, test, outcomes))
    assert text.count("too few objects in every bin") == 3


def test_unknown_magnitudes_are_left_out(rng):
    header, test, outcomes = toy_results(rng)
    test = replace(test, r_obs=np.full(len(test), np.nan))
    stems = [named.stem for named in report_figures(header, test, outcomes)]
    assert "accuracy_magnitude" not in stems
    assert "embedding" in stems


def test_learning_curves_are_the_history(rng):
    header, _, outcomes = toy_results(rng)
    runs = [run for run in outcomes if run.method == "simclr"]
    figure = learning_figures.learning_curves(header, runs)
    pretrain, finetune, hidden, accuracy = figure.axes
    assert not hidden.get_visible()
    for axes, stage in ((pretrain, "pretrain"), (finetune, "finetune")):
        for run, line in zip(runs, lines(axes, style.METHOD_COLOURS[0]), strict=True):
            rows = run.history[stage]
            np.testing.assert_array_equal(line, [[r["epoch"] for r in rows], [r["val_loss"] for r in rows]])
        assert len(lines(axes, style.GREY)) == len(runs)
    for run, line in zip(runs, lines(accuracy, style.METHOD_COLOURS[0]), strict=True):
        np.testing.assert_array_equal(line[1], [row["val_accuracy"] for row in run.history["finetune"]])
    assert {"contrastive pre-training", "fine-tuning"} <= set(words(figure))


def test_the_best_epoch_is_marked(rng):
    header, test, _ = toy_results(rng)
    losses = rng.permutation([0.2, 0.3, 0.4, 0.5, 0.6])
    rows = [{"epoch": k, "train_loss": 1.0, "val_loss": loss} for k, loss in enumerate(losses, start=1)]
    outcome = Outcome("m", 0, probabilities(rng, test.label, 2), {"finetune": rows})
    axes = learning_figures.learning_curves(header, [outcome]).axes[0]
    marks = [line.get_xydata().tolist() for line in axes.get_lines() if line.get_marker() == "o"]
    assert marks == [[[losses.argmin() + 1, 0.2]]]


def test_learning_curves_of_little(rng):
    """One epoch, values that are None or NaN, a stage without rows, a stage of one run only."""
    header, test, _ = toy_results(rng)
    odd = {
        "pretrain": [
            {"epoch": 1, "train_loss": 2.0, "val_loss": None},
            {"epoch": 2, "train_loss": float("nan")},
        ],
        "empty": [],
        "my own stage": history(rng, 1),
    }
    p = probabilities(rng, test.label, 2)
    figure = learning_figures.learning_curves(header, [Outcome("m", 0, p, odd), Outcome("m", 1, p)])
    style.png(figure)
    assert "my own stage" in words(figure)
    assert "empty" not in words(figure)
    assert [line.tolist() for line in lines(figure.axes[0], style.GREY, points=1)] == [[[1], [2]]]
    with pytest.raises(DataError, match="no history to draw"):
        learning_figures.learning_curves(header, [Outcome("m", 0, p)])


def test_projection_by_number_of_objects(rng, monkeypatch):
    monkeypatch.setattr(embedding_figures, "TSNE_OBJECTS", 80)
    for n, how in ((10, "principal components"), (70, "t-SNE"), (200, "t-SNE")):
        rows, position, text = embedding_figures.project(rng.normal(size=(n, 5)))
        assert how in text
        assert len(rows) == len(np.unique(rows)) == min(n, 80)
        assert position.shape == (len(rows), 2)
        assert np.isfinite(position).all()


def test_projection_keeps_what_is_apart_apart(rng):
    label = np.repeat([0, 1], 40)
    rows, position, _ = embedding_figures.project(20.0 * np.eye(6)[label] + rng.normal(size=(80, 6)))
    centre = np.array([position[label[rows] == k].mean(axis=0) for k in (0, 1)])
    nearest = np.linalg.norm(position[:, None] - centre, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, label[rows])


def test_a_collapsed_embedding_is_called_so(rng):
    header, test, outcomes = toy_results(rng)
    flat = replace(outcomes[0], embedding=np.ones((len(test), 8), np.float32))
    figure = embedding_figures.embedding_map(header, test, flat)
    style.png(figure)
    assert any("collapsed" in text for text in words(figure))


def test_embedding_map_counts_classes_and_mistakes(rng):
    header, test, outcomes = toy_results(rng)
    text = words(embedding_figures.embedding_map(header, test, outcomes[0]))
    wrong = np.count_nonzero(metrics.predict(outcomes[0].probability) != test.label)
    assert f"misclassified ({wrong:,})" in text
    assert f"GALAXY ({np.count_nonzero(test.label == 0):,})" in text
    assert any("distances between groups mean nothing" in line for line in text)
    with pytest.raises(DataError, match="no embedding"):
        embedding_figures.embedding_map(header, test, outcomes[1])
    with pytest.raises(DataError, match="two objects and dimensions or more"):
        embedding_figures.project(np.ones((5, 1)))


def test_reliability_without_confidence(rng):
    header, test, outcomes = toy_results(rng)
    with pytest.raises(DataError, match="no method gives probabilities"):
        score_figures.reliability_diagram(header, test, [run for run in outcomes if run.decides_only])
    figure = score_figures.reliability_diagram(header, test, outcomes)
    assert not any("Survey separator" in text for text in words(figure))


def test_reliability_points_are_the_bins(rng):
    header, test, outcomes = toy_results(rng, n=500, runs=1)
    bins = metrics.reliability(test.label, outcomes[0].probability)
    drawn = lines(score_figures.reliability_diagram(header, test, outcomes).axes[0], style.METHOD_COLOURS[0])[
        0
    ]
    there = bins.count >= 20
    np.testing.assert_allclose(drawn, [bins.confidence[there], bins.accuracy[there]])


def test_gallery_shows_the_most_confident_mistakes(rng):
    header, test, _ = toy_results(rng)
    probability = np.eye(2)[test.label] * 0.8 + 0.1
    wrong = {3: 0.99, 7: 0.75, 40: 0.999}
    for row, p in wrong.items():
        probability[row, 1 - test.label[row]], probability[row, test.label[row]] = p, 1 - p
    outcome = Outcome("m", 4, probability)
    figure = mistakes_figure.mistakes_gallery(header, test, outcome)
    titles = [axes.get_title("left") for axes in figure.axes if axes.get_visible()]
    # Row 40 has no image: only the first 12 have.
    assert titles == [f"{header.classes[test.label[row]]}, r = {test.r_obs[row]:.2f}" for row in (3, 7)]
    assert figure.axes[0].get_xlabel() == f"called {header.classes[1 - test.label[3]]}\nat 99.0 %"
    np.testing.assert_array_equal(
        figure.axes[0].get_images()[0].get_array(),
        colour_image.colour_image(test.stamps_preview[3], test.bands),
    )
    assert any("i, r, g as red, green, blue; 12.7 arcsec" in text for text in words(figure))


def test_gallery_finds_the_rows_of_its_images(rng):
    header, test, _ = toy_results(rng)
    rows = np.array([90, 5])
    test = replace(test, stamps_preview=test.stamps_preview[:2], preview_rows=rows)
    probability = np.eye(2)[1 - test.label] * 0.8 + 0.1
    probability[5] = probability[5].round()
    figure = mistakes_figure.mistakes_gallery(header, test, Outcome("m", 0, probability))
    assert [axes.get_title("left").split("r = ")[1] for axes in figure.axes] == [
        f"{test.r_obs[row]:.2f}" for row in (5, 90)
    ]


def test_gallery_of_nothing(rng):
    header, test, outcomes = toy_results(rng)
    with pytest.raises(DataError, match="no images to show"):
        mistakes_figure.mistakes_gallery(header, without_images(test), outcomes[0])
    right = Outcome("m", 0, np.eye(2)[test.label])
    with pytest.raises(DataError, match="none of the objects with an image was misclassified"):
        mistakes_figure.mistakes_gallery(header, test, right)
    assert "mistakes" not in [named.stem for named in report_figures(header, test, [right])]


def gaussian(size, flux, width=1.5):
    """Return a round source of total `flux` in the middle of a stamp."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return flux * np.exp(-(x**2 + y**2) / (2 * width**2)) / (2 * np.pi * width**2)


def test_colours_follow_the_bands(rng):
    sky = rng.normal(0, 0.02, (5, 31, 31))
    for band, channel in (("i", 0), ("r", 1), ("g", 2)):
        stamp = sky.copy()
        stamp["ugriz".index(band)] += gaussian(31, 100)
        picture = colour_image.colour_image(stamp, "ugriz")
        assert picture.shape == (31, 31, 3)
        assert picture[15, 15].argmax() == channel
        assert picture[15, 15, channel] > 0.9
        assert picture[:5, :5].mean() < 0.2


def test_a_bright_and_a_faint_source_can_be_seen(rng):
    for flux in (1.0, 10.0, 1e4):
        stamp = rng.normal(0, 0.02, (5, 32, 32)) + gaussian(32, flux)
        picture = colour_image.colour_image(stamp, "ugriz").mean(axis=2)
        assert picture[14:18, 14:18].mean() > picture[:8].mean() + 4 * picture[:8].std() / 4


def test_pixels_without_value_are_drawn_apart(rng):
    stamp = rng.normal(size=(5, 32, 32))
    stamp[:, 4:6] = np.nan
    stamp[2, 20, 20] = np.inf
    picture = colour_image.colour_image(stamp, "ugriz")
    assert np.isfinite(picture).all()
    assert (picture[4:6] == picture[4, 0]).all()
    assert (picture[4, 0] > 0.8).all()


@pytest.mark.parametrize(
    "stamp", [np.zeros((5, 8, 8)), np.full((5, 8, 8), np.nan), np.ones((5, 7, 7)) * 1e30]
)
def test_empty_stamps_are_drawn(stamp):
    picture = colour_image.colour_image(stamp, "ugriz")
    assert picture.min() >= 0
    assert picture.max() <= 1


@pytest.mark.parametrize("bands", [("b",), ("b", "v"), ("j", "h", "k"), tuple("ugrizy")])
def test_other_bands_are_drawn(rng, bands):
    stamp = rng.normal(0, 0.02, (len(bands), 16, 16)) + gaussian(16, 10)
    picture = colour_image.colour_image(stamp, bands)
    assert picture[7:9, 7:9].mean() > 0.5


def test_classes_have_colours_of_their_own():
    assert len({style.class_colour(name) for name in ("GALAXY", "QSO", "STAR")}) == 3
    assert style.class_colour("DWARF") == style.class_colour("DWARF")
    assert not set(style.CLASS_COLOURS.values()) & set(style.METHOD_COLOURS)


def test_saving(rng, tmp_path):
    header, test, outcomes = toy_results(rng)
    figure = score_figures.confusion_matrices(header, test, outcomes)
    style.save_png(figure, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[1] == pytest.approx(
        style.DPI * figure.get_size_inches()[0], abs=1
    )
    with pytest.raises(OutputError, match="cannot be written"):
        style.save_png(figure, tmp_path / "nowhere" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
