"""From a folder of rows to its figures and tables: whole, the same again, and saying where they come from."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from kept_rows import real, real_table, results, row, table
from PIL import Image as PillowImage

from robustkit.cli import main
from robustkit.experiments import drawing, figures, grids, identity, lines, pictures, plan, rateplots, store, sweep
from robustkit.experiments.figures import Wish
from robustkit.experiments.results import CLEAN, Results, ResultsError
from robustkit.experiments.sets import FILE as SETS

ROOT = Path(__file__).parents[2]
CHANNELS = ["bsc(ber=0.001)", "bsc(ber=0.02)"]


def run(*arguments, status=0):
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == status, done.output
    return done.output


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A real sweep, with the median trials kept."""
    folder = tmp_path_factory.mktemp("sweep")
    photographs = folder / "photographs"
    photographs.mkdir()
    from robustkit.images import photographs as of_skimage

    for name in ("coffee", "rocket"):
        PillowImage.fromarray(of_skimage(64)[name]).save(photographs / f"{name}.png")
    wanted = plan.make(
        {
            **{"codecs": [{"codec": "jpeg"}, {"codec": "webp"}], "images": str(photographs)},
            **{"channels": CHANNELS, "trials": 3, "metrics": ["psnr", "ssim"], "keep": ["median:1"]},
        }
    )
    experiment, _ = identity.examine(wanted, pictures.find(wanted.images, wanted.crop))
    experiment = sweep.begin(folder / "rows", experiment)
    sweep.sweep(folder / "rows", experiment, wanted)
    return folder / "rows"


@pytest.fixture(scope="module")
def drawn(swept, tmp_path_factory):
    """Its figures and tables, drawn twice by one command."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            patch.chdir(folder)
            said = run("figures", swept, "--out", "figures", "--compare", "published")
    assert "Rates are NOT matched" in said
    return [folder / "figures" for folder in folders]


# -- end to end -----------------------------------------------------------------------------------------------


def test_every_figure_is_there_in_each_format_with_its_csv(drawn):
    one, _ = drawn
    names = {path.stem for path in one.glob("*.png")}
    assert names == {
        *("damage-bsc", "pictures-coffee-bsc", "pictures-rocket-bsc"),
    }
    for name in names:
        for ending in ("svg", "pdf", "csv"):
            assert (one / f"{name}.{ending}").stat().st_size > 0, name
    tables = {path.stem for path in one.glob("*.tex")}
    assert tables == {
        *("layout-bsc", "conventions-psnr", "conventions-ssim", "rates", "pairs-psnr", "pairs-ssim"),
        *("losses-psnr", "losses-ssim", "compare-published"),
    }
    page = (one / figures.PAGE).read_text(encoding="utf-8")
    for name in names:
        assert f"![{name}]({name}.png)" in page


def test_the_same_rows_and_command_give_the_same_files(drawn):
    one, two = drawn
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in two.iterdir())
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_each_file_says_where_it_comes_from(drawn, swept):
    one, _ = drawn
    digest = figures.read(swept).digest
    command = f"robustkit figures {swept} --out figures --compare published"
    with PillowImage.open(one / "damage-bsc.png") as image:
        said = json.loads(image.info["robustkit"])
    assert said["command"] == command
    assert said["data_sha256"] == digest
    assert {"robustkit", "matplotlib", "numpy"} <= set(said["versions"])
    assert "95% intervals" in said["caption"]
    svg = (one / "damage-bsc.svg").read_text(encoding="utf-8")
    assert digest in svg
    assert "<dc:date>" not in svg
    pdf = (one / "damage-bsc.pdf").read_bytes()
    assert digest.encode() in pdf.replace(b"\\\n", b"")
    assert b"CreationDate" not in pdf
    assert digest in (one / "rates.tex").read_text(encoding="utf-8")
    assert command in (one / figures.PAGE).read_text(encoding="utf-8").replace("\\", "")


def test_the_csv_of_a_figure_has_what_it_shows(drawn, swept):
    one, _ = drawn
    with (one / "damage-bsc.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["quantity"] for row in rows} == {"psnr", "ssim", "no image"}
    assert {row["channel"] for row in rows} == {"clean", *CHANNELS}
    point = figures.read(swept).points["jpeg", CHANNELS[0]]
    (shown,) = [r for r in rows if (r["entry"], r["channel"], r["quantity"]) == ("jpeg", CHANNELS[0], "no image")]
    assert int(shown["events"]) == int((~point.has_image).sum())


def test_trials_without_an_image_are_charged_by_the_originals(swept):
    found = figures.read(swept)
    assert any(point.lost for point in found.points.values())
    from robustkit import quality
    from robustkit.images import photographs

    original = photographs(64)["coffee"]
    grey = np.full_like(original, 128)
    assert found.grey["psnr"]["coffee.png"] == quality.measure("psnr", original, grey)
    # Asked once: the second time the folder knows.
    kept = json.loads((swept / "mid-grey.json").read_text(encoding="utf-8"))
    assert len(kept) == 2


def test_a_grid_shows_the_median_trial_that_was_kept(drawn, swept):
    one, _ = drawn
    with (one / "pictures-coffee-bsc.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["entry"], row["channel"]) for row in rows} == {
        (entry, channel) for entry in ("jpeg", "webp") for channel in ("clean", *CHANNELS)
    }
    every = store.read(swept).to_pylist()
    for shown in rows:
        here = [
            row for row in every
            if (row["entry"], row["image"], row["channel"]) == (shown["entry"], "coffee.png", shown["channel"])
        ]  # fmt: skip
        ordered = sorted(-1e9 if row["psnr"] is None else row["psnr"] for row in here)
        middle = ordered[(len(ordered) - 1) // 2]
        assert (float(shown["psnr"]) if shown["psnr"] else -1e9) == middle


def test_an_image_that_was_not_kept_is_named_with_the_way_out(swept, tmp_path):
    said = run("figures", swept, "--out", tmp_path, "--image", "cofee.png", status=1)
    assert "no reconstruction of 'cofee.png' was kept: did you mean coffee.png" in said
    assert "--keep median:1" in said


def test_choose_says_which_is_best(swept):
    said = run("choose", swept, "--bpp", "3", "--channel", "bsc(ber=1e-3)")
    assert re.search(r"bsc\(ber=0\.001\), 3 bpp: (jpeg|webp), \d+\.\d\d dB", said)
    found = json.loads(run("choose", swept, "--bpp", "3", "--metric", "ssim", "--json"))
    assert {line["channel"] for line in found} == {"clean", *CHANNELS}
    assert {line["place"] for line in found} == {1, 2}
    assert all(line["metric"] == "ssim" for line in found)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("figures", "{}", "--format", "gif"), "--format gif: known: pdf, png, svg"),
        (("figures", "{}", "--entry", "jpg"), "no entry is called 'jpg': did you mean jpeg?"),
        (("figures", "{}", "--metric", "lpips"), "no trial was measured by 'lpips'"),
        (("choose", "{}", "--bpp", "1", "--channel", "bsc(ber=0.002)"), "no trial went through 'bsc(ber=0.002)'"),
        (("choose", "{}", "--bpp", "0"), "0.0 is not in the range x>0"),
    ],
)
def test_mistakes_name_the_way_out(swept, arguments, said):
    done = CliRunner().invoke(main, [a.format(swept) for a in arguments])
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_folder_without_rows_is_said(tmp_path):
    assert "has no rows" in run("figures", tmp_path, status=1)
    (tmp_path / "file").touch()
    assert "is a file" in run("figures", tmp_path / "file", status=2)


# -- single figures -------------------------------------------------------------------------------------------


def colours_and_marks(figure):
    (legend,) = figure.legends
    return [(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in legend.get_lines()]


def test_lines_are_told_apart_by_more_than_colour():
    names = [f"c{n}" for n in range(10)]
    styles = drawing.styles(names).values()
    assert len({style.marker for style in styles}) == 10
    assert len({(style.marker, str(style.dash)) for style in styles}) == 10
    assert len({(style.colour, str(style.dash)) for style in styles}) == 10


def test_too_many_codecs_are_parted_by_their_rates():
    found = real()
    made = lines.against_damage(found, [found.metric("psnr")])
    assert len(made) == 3
    for figure in made:
        assert "Rates are matched within 5%" in figure.caption


def test_none_of_n_is_drawn_at_its_upper_bound_with_an_arrow():
    found = real(["jpeg+rs(255,191)@q10", "jpeg"])
    (figure,) = lines.against_damage(found, [found.metric("psnr")])
    shares = figure.figure.axes[-1]
    upper = 100 * (1 - 0.05 ** (1 / 24))
    drawn = [
        line for line in shares.lines if len(line.get_ydata()) == 1 and line.get_ydata()[0] == pytest.approx(upper)
    ]
    assert {"v", "|"} <= {line.get_marker() for line in drawn}
    assert "none of the trials, drawn at the exact 95% upper bound" in figure.caption
    assert shares.get_ylim()[0] > 0


def test_means_of_few_survivors_are_hollow_and_the_caption_says_so():
    found = real(["jpeg"])
    (figure,) = lines.against_damage(found, [found.metric("psnr")])
    panel = figure.figure.axes[0]
    assert "white" in {line.get_markerfacecolor() for line in panel.lines if line.get_marker() == "o"}
    assert "Hollow: more than 10% of the trials gave no image" in figure.caption
    (charged,) = lines.against_damage(found, [found.metric("psnr")], convention="grey")
    assert "Hollow" not in charged.caption
    assert "charged as a mid-grey image" in charged.caption


def test_the_clean_level_stands_apart_behind_a_break():
    found = real(["jpeg", "webp"])
    (figure,) = lines.against_damage(found, [found.metric("psnr")])
    panel = figure.figure.axes[0]
    ticks = [label.get_text() for label in panel.get_xticklabels()]
    assert ticks == ["0", *(f"$10^{{{n}}}$" for n in (-4, -3, -2, -1))]
    # No line leads there.
    apart = panel.get_xticks()[0]
    assert not any(len(line.get_xdata()) > 2 and apart in line.get_xdata() for line in panel.lines)


def test_equal_images_are_infinite_and_not_joined():
    found = real(["png"])
    (figure,) = lines.against_damage(found, [found.metric("psnr")])
    assert "∞" in [text.get_text() for text in figure.figure.axes[0].texts]
    assert "no finite PSNR" in figure.caption


def test_bursts_start_from_single_flips_at_the_same_rate():
    found = real(["jpeg", "webp"])
    (figure,) = lines.burst_sensitivity(found, [found.metric("psnr")])
    assert figure.name == "bursts-0.001"
    assert [label.get_text() for label in figure.figure.axes[0].get_xticklabels()] == [
        "single\nflips",
        "4",
        "32",
        "128",
    ]


def test_published_values_are_crosses_beside_the_measured_ones():
    found = real(["jpeg", "webp"])
    (figure,) = lines.against_damage(found, [found.metric("psnr")], beside="kodak24")
    crosses = [line for line in figure.figure.axes[0].lines if line.get_marker() == "x"]
    assert sorted(float(line.get_ydata()[0]) for line in crosses) == [6.1841, 7.84, 9.15, 32.4659]
    assert "Crosses: published means (arXiv 2604.05743, kodak24)" in figure.caption


def test_ladders_of_rates_are_drawn_in_each_metric_and_in_the_plane():
    found = real()
    figure = rateplots.rate_distortion(found, [found.metric("psnr"), found.metric("ssim")])
    assert figure is not None
    assert len(figure.figure.axes) == 3
    assert len(colours_and_marks(figure.figure)) == 3
    assert rateplots.rate_distortion(real(["jpeg", "webp"]), [found.metric("psnr")]) is None


def test_the_envelope_is_drawn_for_each_rate_that_codecs_share():
    found = real()
    drawn, choices = rateplots.best_at_each(found, found.metric("psnr"))
    assert [figure.name for figure in drawn] == ["envelope-bsc"]
    # For each rate the codecs, and below them the margins: of each choice that has a second.
    upper, lower = drawn[0].figure.axes[:3], drawn[0].figure.axes[3:]
    assert len(upper) == len(lower) == 3
    for above, below in zip(upper, lower, strict=True):
        assert above.get_position().x0 == pytest.approx(below.get_position().x0)
        bpp = float(above.get_title().split()[2])
        here = [c for c in choices if c.channel == CLEAN or c.channel.startswith("bsc")]
        shown = [c for c in here if c.bpp == pytest.approx(bpp, rel=1e-2) and c.margins]
        assert len(below.containers) == len(shown) > 1
        for choice, bar in zip(shown, below.containers, strict=True):
            (ends,) = bar.lines[2][0].get_segments()
            bound = choice.margins[0].bound
            assert [bar.lines[0].get_ydata()[0], *ends[:, 1]] == pytest.approx([bound.estimate, bound.low, bound.high])
    assert len({(choice.channel, choice.bpp) for choice in choices}) == len(choices)
    total = rateplots.total_rate(found, found.metric("psnr"))
    assert [figure.name for figure in total] == ["total-rate-bsc", "total-rate-others"]


def test_no_text_is_smaller_than_six_points():
    found = real(["jpeg", "webp", "robust-turbo-ddcm"])
    for width in ("column", "page"):
        for figure in lines.against_damage(found, [found.metric("psnr"), found.metric("ssim")], width=width):
            sizes = {text.get_fontsize() for text in figure.figure.findobj(lambda a: hasattr(a, "get_fontsize"))}
            assert min(sizes) >= 6
            assert figure.figure.get_figwidth() == drawing.WIDTHS[width]


def test_labels_below_a_narrow_panel_neither_touch_nor_leave_it():
    severities = {"bsc(ber=%g)": (1e-3, 1e-2, 2e-2), "truncation(keep=%g)": (0.9, 0.5, 0.1)}
    for spelling, values in severities.items():
        channels = [(spelling % value, 1 - value if "keep" in spelling else value) for value in values]
        found = results(
            [row("jpeg", "a", channel, 0, severity=severity) for channel, severity in channels]
            + [row("jpeg", "a", "clean", -1)]
        )
        (figure,) = lines.against_damage(found, [found.metric("psnr"), found.metric("lpips")], width="column")
        with drawing.style():
            drawing.fit(figure.figure)
            figure.figure.draw_without_rendering()
        for panel in figure.figure.axes[:3]:
            assert not drawing._crowded(panel)
            labels = panel.get_xticklabels()
            assert {label.get_rotation() for label in labels} == {0}
            # Below the others, for 0.01 is near.
            assert [label.get_text() for label in labels if label.get_text().startswith("\n")] == (
                ["\n0.02"] if "ber" in spelling else []
            )
            label = panel.xaxis.label.get_window_extent()
            assert label.x0 >= 0
            assert label.x1 <= figure.figure.bbox.width
            assert panel.xaxis.label.get_text().split() in (
                ["bit", "error", "rate"],
                ["largest", "share", "cut", "off"],
            )
    # Shares that are evenly spaced are drawn so, and not as powers.
    assert [label.get_text() for label in panel.get_xticklabels()][1:] == ["0.1", "0.5", "0.9"]


def test_labels_that_two_lines_do_not_part_are_tilted():
    bers = (1e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3, 1e-1)
    rows = [row("jpeg", "a", f"bsc(ber={ber:g})", 0, severity=ber) for ber in bers]
    found = results([*rows, row("jpeg", "a", "clean", -1)])
    (figure,) = lines.against_damage(found, [found.metric("psnr"), found.metric("lpips")], width="column")
    with drawing.style():
        drawing.fit(figure.figure)
    for panel in figure.figure.axes[:3]:
        labels = panel.get_xticklabels()
        assert {label.get_rotation() for label in labels} == {45}
        assert [label.get_text() for label in labels][1:] == [
            "$10^{-3}$", "0.0015", "0.002", "0.0025", "0.003", "$10^{-1}$"
        ]  # fmt: skip


def test_many_codecs_stand_side_by_side_with_bars_within_the_axes():
    rows = [
        row(f"codec{i}", image, channel, trial, severity=severity, psnr=20.0 + i + j)
        for i in range(lines.BANDED + 2)
        for j, image in enumerate("ab")
        for channel, severity, trial in (("clean", 0.0, -1), ("bsc(ber=0.001)", 1e-3, 0), ("bsc(ber=0.01)", 1e-2, 0))
    ]
    few = results([r for r in rows if int(r["entry"][5:]) < lines.BANDED])
    for found, banded in ((results(rows), False), (few, True)):
        (figure,) = lines.against_damage(found, [found.metric("psnr")])
        with drawing.style():
            figure.figure.draw_without_rendering()
        panel = figure.figure.axes[0]
        assert bool(panel.collections) == banded
        assert ("Bands: " in figure.caption, "Bars: " in figure.caption) == (banded, not banded)
        marks = [line for line in panel.lines if len(line.get_ydata()) == 1 and line.get_zorder() == 4]
        assert len(marks) == 3 * len(found.entries)
        at = [tuple(line.get_transform().transform(line.get_xydata())[0]) for line in marks]
        # No two marks of a severity stand in one place across, unless bands are drawn.
        assert len({round(x, 3) for x, _ in at}) == (3 if banded else len(marks))
        box = panel.get_window_extent()
        assert all(box.y0 <= y <= box.y1 for _, y in at)


def test_the_legend_covers_no_panel():
    found = real(["jpeg", "webp", "robust-turbo-ddcm", "jpeg+rs(255,191)@q10", "jpeg2000@q30"])
    for width in ("column", "page"):
        (figure,) = lines.against_damage(found, [found.metric("psnr")], width=width)
        with drawing.style():
            figure.figure.draw_without_rendering()
        legend = figure.figure.legends[0].get_window_extent()
        assert legend.x0 >= 0
        assert legend.x1 <= figure.figure.bbox.width
        for panel in figure.figure.axes:
            assert not legend.overlaps(panel.get_window_extent())


def test_hostile_names_are_drawn_letter_by_letter(tmp_path):
    name = r"$\frac{a}{$ ../../x" + "\x1b[31m<b>"
    channels = ("clean", *CHANNELS)
    rows = [row(name, image, c, -1 if c == "clean" else 0) for image in "ij" for c in channels]
    found = results([*rows, *(row("other", image, c, -1 if c == "clean" else 0) for image in "ij" for c in channels)])
    drawn, tables = figures.draw(found, Wish(), tmp_path)
    files = figures.write(drawn, tables, tmp_path / "out", drawing.about(found, "x"))
    assert {path.parent for path in files} == {tmp_path / "out"}
    svg = next(path for path in files if path.suffix == ".svg").read_text(encoding="utf-8")
    assert "\x1b" not in svg
    assert "\x1b" not in (tmp_path / "out" / figures.PAGE).read_text(encoding="utf-8")


def test_metrics_of_sets_have_a_panel_and_a_broken_file_is_said(tmp_path):
    (tmp_path / SETS).write_text(
        "entry,channel,trial,metric,value\n"
        + "".join(f"jpeg,{c},{n},fid,{30 + n}\n" for c in CHANNELS for n in range(3))
        + "jpeg,bsc(ber=0.02),3,fid,\n",
        encoding="utf-8",
    )
    sets = figures.read_sets(tmp_path / SETS)
    assert sets["jpeg", CHANNELS[0], "fid"] == [30, 31, 32]
    rows = [row("jpeg", image, c, -1 if c == "clean" else 0) for image in "ij" for c in ("clean", *CHANNELS)]
    found = results(rows, sets=sets)
    (figure,) = lines.against_damage(found, [found.metric("psnr")])
    assert [panel.get_title() for panel in figure.figure.axes] == ["PSNR, dB ↑", "FID ↓", "no image, % ↓"]
    assert figure.figure.axes[1].get_yscale() == "log"
    (tmp_path / SETS).write_text("entry,channel\njpeg,clean\n", encoding="utf-8")
    with pytest.raises(ResultsError, match="it needs the columns entry, channel, trial, metric, value"):
        figures.read_sets(tmp_path / SETS)


def test_what_was_kept_and_cannot_be_read_is_said(tmp_path):
    place = tmp_path / "kept" / "a"
    place.mkdir(parents=True)
    (place / "trial-0.json").write_text("{", encoding="utf-8")
    with pytest.raises(ResultsError, match="can't be read"):
        grids.reconstructions(real(["jpeg"]), tmp_path)


@pytest.mark.slow
def test_the_real_rows_are_the_ones_that_their_maker_makes():
    """A codec's row made anew: what the other tests stand on is no invention."""
    program = (
        "import sys, json; sys.path.insert(0, 'tests/experiments'); import make_rows, tempfile, pathlib\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    made = list(make_rows.rows_of('jpeg', 'jpeg', {}, pathlib.Path(d)))\n"
        "print(json.dumps([[r['image'], r['channel'], r['trial'], r['outcome'], r.get('psnr')] for r in made]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    made = {tuple(key): (outcome, psnr) for *key, outcome, psnr in json.loads(done.stdout)}
    kept = [row for row in real_table().to_pylist() if row["entry"] == "jpeg"]
    assert made == {(r["image"], r["channel"], r["trial"]): (r["outcome"], r["psnr"]) for r in kept}


def test_a_metrics_name_is_no_path(tmp_path):
    said = {"../../psnr": {"higher_is_better": True}}
    channels = ("clean", *CHANNELS)

    rows = [row("jpeg", image, c, -1 if c == "clean" else 0, **{"../../psnr": 3.0}) for image in "ij" for c in channels]
    for found in rows:
        del found["psnr"], found["lpips"]
    made = Results(table(rows, said))
    drawn, tables = figures.draw(made, Wish(), tmp_path)
    files = figures.write(drawn, tables, tmp_path / "out", drawing.about(made, "x"), ("svg",))
    assert {path.parent for path in files} == {tmp_path / "out"}
    assert len(files) == len(list((tmp_path / "out").iterdir()))


def test_the_digest_is_of_metrics_of_sets_too():
    rows = [row("jpeg", "i", "clean", -1)]
    plain = results(rows).digest
    assert results(rows, sets={}).digest == plain
    one, other = (results(rows, sets={("jpeg", "clean", "fid"): [value]}).digest for value in (1.0, 2.0))
    assert len({plain, one, other}) == 3


def test_the_pages_pictures_were_made_by_the_pages_command():
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    shown = sorted((ROOT / "docs" / "pictures").glob("*.png"))
    assert {f"pictures/{path.name}" for path in shown} <= set(re.findall(r"\]\((pictures/[^)]+)\)", page))
    digests = set()
    for path in shown:
        with PillowImage.open(path) as image:
            said = json.loads(image.info["robustkit"])
        assert said["command"] in page.splitlines(), path.name
        digests.add(said["data_sha256"])
    assert len(shown) == 2
    assert len(digests) == 1
