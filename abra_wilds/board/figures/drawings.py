"""Figs. 5-10 as matplotlib figures, from their values alone; nothing here computes or writes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from abra_wilds.board.figures.ablations import SHOWN_SPLITS, Bar
from abra_wilds.board.figures.style import COLOURS, GREY, new_figure, note, plain
from abra_wilds.board.figures.values import FigureRows
from abra_wilds.results.runs import SPLIT_NAMES

ACCURACY = "accuracy (% of images)"
STATISTICS = {"kl_near": "KL (nats a channel)", "mmd_near": "MMD (no unit)"}


def draw_bars(bars: Sequence[Bar], title: str, xlabel: str) -> Figure:
    """Figs. 5 and 6: accuracies by setting, a panel for each split and a colour for each adaptation."""
    splits = sorted({b.split for b in bars}, key=SHOWN_SPLITS.index)
    ttas, settings = (list(dict.fromkeys(getattr(b, name) for b in bars)) for name in ("tta", "setting"))
    width = max(4.2, 1 + 0.4 * len(settings) * (1 + len(ttas))) * len(splits)
    figure = new_figure(title, min(width, 14), 4.2, simulated=bars[0].simulated)
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        for k, tta in enumerate(ttas):
            mine = {settings.index(b.setting): b for b in bars if (b.split, b.tta) == (split, tta)}
            name = "no adaptation" if tta == "none" else f"--tta {tta}"
            add_bars(axes, mine, COLOURS[k], (k, len(ttas)), name)
            for at in set(range(len(settings))) - set(mine):
                x = at + offset(k, len(ttas))
                axes.text(x, 0, " no run", rotation=90, ha="center", va="bottom", fontsize=8, color="#404040")
        axes.set_title(SPLIT_NAMES[split], fontsize=10)
        axes.set_xticks(range(len(settings)), settings)
        if len(settings) > 3:
            axes.tick_params("x", rotation=20)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        plain(axes, xlabel, ACCURACY)
    if len(ttas) > 1:
        panels[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    counts = sorted({len(b.seeds.split()) for b in bars})
    over = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    spread = f"Error bars: sample standard deviation over {over} seeds" if counts[-1] > 1 else "One seed"
    note(figure, f"{spread}; {bars[0].checkpoint} epoch.")
    return figure


def offset(k: int, of: int) -> float:
    """Where the k-th of several stands beside a whole number."""
    return (k - (of - 1) / 2) * 0.8 / of


def add_bars(axes: Axes, bars: Mapping[int, Bar], colour: str, place: tuple[int, int], name: str) -> None:
    """Bars at whole numbers, the k-th of several beside each other, with error bars where there are any."""
    x = [at + offset(*place) for at in bars]
    means = [100 * b.mean for b in bars.values()]
    drawn = axes.bar(x, means, 0.72 / place[1], color=colour, label=name)
    axes.bar_label(drawn, fmt="%.1f", label_type="center", color="white", fontsize=8)
    stds = [np.nan if b.std is None else 100 * b.std for b in bars.values()]
    axes.errorbar(x, means, stds, fmt="none", ecolor="black", capsize=3, linewidth=1)


def series_name(row: Mapping[str, Any], rows: FigureRows) -> str:
    """What tells a model from others: its method, and settings, seed or epoch where these are several."""

    def several(name: str) -> bool:
        return len({r[name] for r in rows if r["method"] == row["method"]}) > 1

    parts = {"seed": f"seed {row['seed']}", "checkpoint": f"epoch {row['checkpoint']}"}
    method = f"{row['method']} [{row['settings']}]" if row["settings"] else row["method"]
    return ", ".join([method, *(text for name, text in parts.items() if several(name))])


def settings_note(row: Mapping[str, Any]) -> str:
    """The settings by which a model differs from others of its method, as a sentence to append."""
    return f" The run's {row['settings']}." if row["settings"] else ""


def draw_batch_sizes(rows: FigureRows) -> Figure:
    """Fig. 7: violins of accuracies over draws, by batch size; lines where nothing is adapted."""
    first = rows[0]
    split, group = SPLIT_NAMES.get(first["split"], first["split"]), first["group"]
    figure = new_figure(
        f"Accuracy against inference batch size, {split}", 8.5, 4.6, simulated=first["simulated"]
    )
    axes = figure.subplots()
    sizes = sorted({row["size"] for row in rows if row["size"] is not None})
    models = list(dict.fromkeys(series_name(row, rows) for row in rows))
    colours = dict(zip(models, spread_colours(len(models)), strict=True))
    for k, model in enumerate(models):
        mine = [row for row in rows if series_name(row, rows) == model]
        add_violins(axes, mine, sizes, colours[model], (k, len(models)))
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    plain(axes, f"images of one {group} whose statistics are taken together", ACCURACY)
    handles = [
        Line2D([], [], color=c, marker="o", linestyle="", label=textwrap.fill(model, 40))
        for model, c in colours.items()
    ]
    handles += [Line2D([], [], color=GREY, linestyle="--", label="without adaptation")]
    axes.legend(handles=handles, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    draws = max(row["draw"] for row in rows) + 1
    note(
        figure,
        f"{draws} random partitions of each {group} for each size, one where it stays whole; points: draws.",
    )
    return figure


def add_violins(
    axes: Axes, rows: FigureRows, sizes: Sequence[int], colour: Any, place: tuple[int, int]
) -> None:
    """One model's draws at each size, as the k-th of several beside each other, and its line."""
    for i, size in enumerate(sizes):
        accs = [100 * row["acc"] for row in rows if row["size"] == size]
        at = i + offset(*place)
        if len(accs) > 1:
            drawn: Any = axes.violinplot(accs, [at], widths=0.72 / place[1], showextrema=False)
            drawn["bodies"][0].set(facecolor=colour, alpha=0.45)
        axes.scatter([at] * len(accs), accs, s=9, color=colour, zorder=3)
    for row in rows:
        if row["size"] is None:
            axes.axhline(100 * row["acc"], color=colour, linestyle="--", linewidth=1.3)


def draw_shift(rows: FigureRows, sentence: str) -> Figure:
    """Fig. 8: KL and MMD by layer, medians over bio-batches and their middle nine tenths, and the advice.

    Drawn is what the advice is about, distances from the nearest training bio-batch; distances from the
    model's own statistics are large in training already.
    """
    first = rows[0]
    title = (
        f"Batch-norm statistics by layer: distance from the nearest training {first['group']}, "
        f"{first['method']} seed {first['seed']}"
    )
    figure = new_figure(title, 10, 5.4, simulated=first["simulated"])
    layers = [name for _, name in sorted({(row["depth"], row["layer"]) for row in rows})]
    panels = figure.subplots(2, 1, sharex=True)
    for axes, (name, label) in zip(panels, STATISTICS.items(), strict=True):
        for k, split in enumerate(dict.fromkeys(row["split"] for row in rows)):
            by_layer = [[r[name] for r in rows if (r["split"], r["layer"]) == (split, at)] for at in layers]
            low, middle, high = np.quantile(np.array(by_layer), (0.05, 0.5, 0.95), axis=1)
            whose = "train, other halves" if split == "train" else SPLIT_NAMES.get(split, split)
            label = f"{whose} ({len(by_layer[0])} {first['group']}s)"
            axes.plot(middle, color=COLOURS[k], marker="os^D"[k], markersize=4, linewidth=1.3, label=label)
            axes.fill_between(range(len(layers)), low, high, color=COLOURS[k], alpha=0.2, linewidth=0)
        axes.set_yscale("log")
        plain(axes, "", label)
    panels[0].legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    panels[1].set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
    panels[1].set_xlabel("batch norm, from the images to the classifier")
    bands = f"Lines: medians; bands: 5 % to 95 % of bio-batches; {first['images']} images of each."
    rest = "Distances from the model's own statistics are in the .csv."
    note(figure, f"{bands} {sentence} {rest}{settings_note(first)}")
    return figure


def draw_points(rows: FigureRows) -> Figure:
    """Figs. 9 and 10: embeddings in the plane, a panel for each cell line, a colour for each experiment."""
    first = rows[0]
    own = "the model" if first["statistics"] == "running" else f"each {first['group']}"
    title = (
        f"{first['projection']} of embeddings by batch statistics of {own}, "
        f"{first['method']} seed {first['seed']}"
    )
    lines = sorted({row["cell_type"] for row in rows})
    across = min(2, len(lines))
    down = -(-len(lines) // across)
    figure = new_figure(title, 5.6 * across, 4.2 * down, simulated=first["simulated"])
    panels = list(figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).flat)
    for axes in panels[len(lines) :]:
        axes.set_visible(False)
    for axes, line in zip(panels, lines, strict=False):
        scatter_points(axes, rows, s=3, color="#DDDDDD")
        for part, colour, label in coloured_experiments([row for row in rows if row["cell_type"] == line]):
            look = {"marker": "o", "s": 12} if part[0]["split"] == "train" else {"marker": "^", "s": 20}
            edge = {} if part[0]["split"] == "train" else {"edgecolor": "black", "linewidth": 0.4}
            scatter_points(axes, part, color=colour, label=label, **look, **edge)
        axes.set_title(line, fontsize=10)
        axes.set(xticks=[], yticks=[])
        axes.set(xlabel=f"{first['projection']} 1 (no unit)", ylabel=f"{first['projection']} 2 (no unit)")
        columns = 1 + len(axes.get_legend_handles_labels()[1]) // 18
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, ncols=columns)
    note(
        figure,
        f"{len(rows):,} of {first['of']:,} images, at random; circles: training bio-batches, triangles: "
        f"others; grey: other cell lines.{settings_note(first)}",
    )
    return figure


def coloured_experiments(rows: FigureRows) -> Iterator[tuple[FigureRows, Any, str]]:
    """The points of each experiment and split of one cell line, with a colour and a name."""
    experiments = sorted({row["experiment"] for row in rows})
    for experiment, colour in zip(experiments, spread_colours(len(experiments)), strict=True):
        for split in dict.fromkeys(row["split"] for row in rows):
            part = [row for row in rows if (row["experiment"], row["split"]) == (experiment, split)]
            if part:
                yield part, colour, f"{experiment} ({SPLIT_NAMES.get(split, split)})"


def scatter_points(axes: Axes, rows: FigureRows, **look: Any) -> None:
    """Points, as pixels in vector files too, where thousands of shapes would be slow."""
    x, y = ([row[name] for row in rows] for name in ("x", "y"))
    axes.scatter(x, y, rasterized=True, **{"linewidth": 0, **look})


def spread_colours(n: int) -> list[Any]:
    """N colours: the palette, or beyond it an even walk through viridis."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    return [colormaps["viridis"](i / (n - 1)) for i in range(n)]
