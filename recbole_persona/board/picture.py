"""``<page>.json`` as a picture: intervals instead of bars, frontiers of two metrics, gains by group of users, curves. SVG.

The same rows give the same bytes. Colours are of Okabe and Ito's palette, which the colour-blind can tell apart; what they
say stands in words, too.
"""

import io
import math

from recbole_persona.board.page import datasets, mark, metric_title
from recbole_persona.board.specification import Board
from recbole_persona.errors import UserError

INK, GREY, LIGHT = "#222222", "#8a8a8a", "#d9d9d9"
BLUE, VERMILION = "#0072B2", "#D55E00"
PALETTE = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
WIDTH, COLUMNS = 5.6, 2  # inches of a panel; panels side by side
_STYLE = {
    "svg.hashsalt": "recbole_persona",
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
}


def draw(board: Board, rows: list[dict]) -> str:
    """The pictures of a board as one SVG, data set by data set.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            'Pictures need matplotlib: pip install "recbole_persona[plots]", or leave pictures out of the board.'
        ) from None
    panels = [
        (picture, dataset, shown)
        for dataset in datasets(rows)
        for picture in board.pictures
        if (shown := _shown(picture, [row for row in rows if row["dataset"] == dataset]))
    ]
    lines = [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]
    heights = [max(_height(picture, shown) for picture, _, shown in line) for line in lines]
    with matplotlib.rc_context(_STYLE):
        columns = min(COLUMNS, max(len(panels), 1))
        figure = Figure(figsize=(WIDTH * columns, sum(heights) or 1), layout="constrained")
        FigureCanvasSVG(figure)
        if lines:
            grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
        for y, line in enumerate(lines):
            for x, (picture, dataset, shown) in enumerate(line):
                axes = figure.add_subplot(grid[y, x])
                _PANELS[picture["kind"]](axes, board, picture, dataset, shown)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _shown(picture, rows) -> list[dict]:
    """The rows that have what the picture shows."""
    rows = [row for row in rows if "rows" not in picture or row["name"] in picture["rows"]]
    if picture["kind"] == "groups":
        return [row for row in rows if _gains(row, picture)]
    if picture["kind"] == "curves":
        return [row for row in rows if any(row.get("curves", []))]
    needed = [picture[key] for key in ("metric", "x", "y") if key in picture]
    return [row for row in rows if all(_mean(row, metric) is not None for metric in needed)]


def _height(picture, rows) -> float:
    return 1.3 + 0.26 * len(rows) if picture["kind"] == "intervals" else 4.3


def _mean(row, metric) -> float | None:
    return row["metrics"].get(metric, {}).get("mean")


def _intervals(axes, board, picture, dataset, rows):
    """A point a row, the best on top; its interval is that of the paired difference, the baseline a line."""
    metric = picture["metric"]
    down = rows[0]["metrics"][metric].get("smaller_is_better", False)
    rows = sorted(rows, key=lambda row: _mean(row, metric), reverse=not down)
    tested = any(metric in row.get("comparisons", {}) for row in rows)
    for y, row in enumerate(rows):
        mean, colour = _mean(row, metric), {1: BLUE, 0: INK, -1: VERMILION}[mark(row, metric)]
        low, high = _span(row, metric, tested)
        axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        published = row["status"] == "published"
        axes.plot(
            mean,
            y,
            "D" if published else "o",
            color=colour,
            markersize=5,
            markerfacecolor="white" if published else None,
        )
        axes.annotate(
            f"{mean:.4f}",
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    base = next((row for row in rows if row["name"] == board.baseline), None)
    if base:
        axes.axvline(_mean(base, metric), color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    names = [row["name"] + (" (published)" if row["status"] == "published" else "") for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title(f"{dataset}: {metric_title(metric)}" + (", less is better" if down else ""))
    against = f" to {board.baseline} (dashed)" if board.baseline else ""
    words = f"95 % interval of the paired difference{against}" if tested else "standard deviation over seeds"
    axes.set_xlabel(f"bars: {words}" + ("\nblue better, red worse, black neither, p < .05 (Holm)" if tested else ""))


def _span(row, metric, tested) -> tuple[float, float]:
    """The ends of a row's bar around its mean; the mean twice where there is none."""
    mean, std = _mean(row, metric), row["metrics"][metric].get("std") or 0.0
    if not tested:
        return mean - std, mean + std
    found = row.get("comparisons", {}).get(metric)
    if not found or found["low"] is None:
        return mean, mean
    return mean + found["low"] - found["difference"], mean + found["high"] - found["difference"]


def _frontier(axes, board, picture, dataset, rows):
    """Rows as points of two metrics, better towards the top right; the weights of a re-ranking joined by a line."""
    ends, heights = [], [_mean(row, picture["y"]) for row in rows]
    room = 0.75 * (max(heights) - min(heights) or abs(heights[0]))  # weights that spoil the list lie out of sight
    for row in rows:
        x, y = _mean(row, picture["x"]), _mean(row, picture["y"])
        path = sorted(
            (step["weight"], step["metrics"][picture["x"]], step["metrics"][picture["y"]])
            for step in row.get("frontier", [])
            if picture["x"] in step["metrics"] and picture["y"] in step["metrics"]
        )
        path = [point for point in path if min(heights) - room <= point[2] <= max(heights) + room]
        colour = VERMILION if path else INK if row["status"] == "published" else BLUE
        if path:
            axes.plot(
                [p[1] for p in path], [p[2] for p in path], "-o", color=LIGHT, markersize=3, linewidth=1.5, zorder=1
            )
        spread = [row["metrics"][picture[key]].get("std") or 0.0 for key in ("x", "y")]
        axes.errorbar(x, y, spread[1], spread[0], ecolor=LIGHT, elinewidth=1, zorder=2)
        axes.plot(x, y, "o", color=colour, markersize=6, zorder=3)
        ends.append((x, y, row["name"], colour))
    for axis, key in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        down = rows[0]["metrics"][picture[key]].get("smaller_is_better", False)
        axis.set_inverted(down)
        title = metric_title(picture[key]) + (" (less is better; the axis is turned)" if down else "")
        axis.set_label_text(title)
    axes.margins(0.12)
    axes.set_title(f"{dataset}: {metric_title(picture['y'])} against {metric_title(picture['x'])}")
    note = "best: top right; thin crosses: standard deviation over seeds"
    note += "\ngrey lines: other weights of a re-ranking" if any(row.get("frontier") for row in rows) else ""
    axes.annotate(
        note, (0, 0), xycoords="axes fraction", xytext=(4, 4), textcoords="offset points", color=GREY, fontsize=7
    )
    _label(axes, ends)


def _label(axes, points):
    """Names beside points, each where it meets the fewest points and names; from the top to the bottom."""
    figure = axes.get_figure()
    figure.draw_without_rendering()  # settles the layout: from here on, places in pixels are known
    pixels = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in pixels]
    frame = axes.get_window_extent()
    for index in sorted(range(len(points)), key=lambda i: -pixels[i][1]):
        x, y, name, colour = points[index]
        text = axes.annotate(name, (x, y), textcoords="offset points", xytext=(0, 0), fontsize=8, color=colour)
        size = text.get_window_extent()
        width, height = size.width, size.height
        choices = [
            (distance, dx, dy)
            for distance in (7, 14, 22)
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
        ]
        boxes = []
        for distance, dx, dy in choices:
            offset = distance * figure.dpi / 72
            left = pixels[index][0] + dx * offset - (0 if dx > 0 else width if dx < 0 else width / 2)
            low = pixels[index][1] + dy * offset - (0 if dy > 0 else height if dy < 0 else height / 2)
            boxes.append((left, low, left + width, low + height))
        costs = [
            sum(_overlap(box, other) for other in taken) + 10 * _outside(box, frame) + 3 * choice[0]
            for box, choice in zip(boxes, choices)
        ]
        best = min(range(len(choices)), key=costs.__getitem__)
        box = boxes[best]
        text.set_position(
            ((box[0] - pixels[index][0]) * 72 / figure.dpi, (box[1] - pixels[index][1]) * 72 / figure.dpi)
        )
        text.set_verticalalignment("bottom")
        taken.append(box)


def _overlap(box, other) -> float:
    """Square pixels that two boxes (left, low, right, high) share."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _outside(box, frame) -> float:
    """Square pixels of a box that lie outside of the panel."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, (frame.x0, frame.y0, frame.x1, frame.y1))


def _gains(row, picture) -> list[dict]:
    """The groups of users for which the row has a difference to its baseline."""
    groups = row.get("splits", {}).get(picture["split"], [])
    cells = [group["metrics"].get(picture["metric"], {}) | {"group": group["group"]} for group in groups]
    return [cell for cell in cells if cell.get("difference") is not None]


def _by_group(axes, board, picture, dataset, rows):
    """The difference of every row to its baseline, by group of users; the rows side by side within a group."""
    labels = [cell["group"] for cell in _gains(rows[0], picture)]
    for number, row in enumerate(rows):
        cells, colour = _gains(row, picture), PALETTE[number % len(PALETTE)]
        shift = 0.5 * ((number + 0.5) / len(rows) - 0.5)
        x = [place + shift for place in range(len(cells))]
        low = [cell["difference"] - (cell["low"] if cell["low"] is not None else math.nan) for cell in cells]
        high = [(cell["high"] if cell["high"] is not None else math.nan) - cell["difference"] for cell in cells]
        axes.errorbar(
            x, [cell["difference"] for cell in cells], [low, high], fmt="o", color=colour, markersize=4, elinewidth=1.5,
            label=row["name"],
        )  # fmt: skip
    axes.axhline(0, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel(f"{picture['split'].replace('_', ' ')} of the user; groups alike in size")
    axes.set_ylabel(f"difference in {metric_title(picture['metric'])}, 95 % interval")
    bases = {row["comparisons"][picture["metric"]]["against"] for row in rows}
    over = bases.pop() if len(bases) == 1 else "the row that each is tested against"
    axes.set_title(f"{dataset}: gain over {over}")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), labelcolor="linecolor")


def _curves(axes, board, picture, dataset, rows):
    """The validation score over the minutes of training: a line a seed, a mark where it is best."""
    for number, row in enumerate(rows):
        colour = PALETTE[number % len(PALETTE)]
        down = row["metrics"].get(board.primary, {}).get("smaller_is_better", False)
        for place, curve in enumerate(filter(None, row["curves"])):
            minutes, scores = zip(*curve)
            best = (min if down else max)(range(len(scores)), key=scores.__getitem__)
            axes.plot(minutes, scores, color=colour, linewidth=1.2, label=None if place else row["name"])
            axes.plot(minutes[best], scores[best], "o", color=colour, markersize=4)
    axes.set_xlabel("minutes of training and validation; a line a seed, a dot where it is best")
    axes.set_ylabel(f"{metric_title(board.primary)} on validation")
    axes.set_title(f"{dataset}: what time buys")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), labelcolor="linecolor")


_PANELS = {"intervals": _intervals, "frontier": _frontier, "groups": _by_group, "curves": _curves}
