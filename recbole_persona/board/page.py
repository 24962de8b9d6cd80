"""``<page>.json`` printed as Markdown, LaTeX and CSV: functions of the board's YAML and the rows, and of nothing else."""

import csv
import io
import json

from recbole_persona.board.per_user import SUFFIX
from recbole_persona.board.specification import Board

SURE = 0.05  # adjusted p below which a difference is marked
BETTER, WORSE = "▲", "▼"
_TITLES = {
    "itemcoverage": "ItemCoverage",
    "averagepopularity": "AveragePopularity",
    "giniindex": "GiniIndex",
    "shannonentropy": "ShannonEntropy",
    "tailpercentage": "TailPercentage",
    "logloss": "LogLoss",
    "personaentropy": "PersonaEntropy",
    "personausage": "PersonaUsage",
    "headdivergence": "HeadDivergence",
    "headdivergencestart": "HeadDivergenceStart",
    "headdivergencepermuted": "HeadDivergencePermuted",
}


def markdown(board: Board, rows: list[dict]) -> str:
    """The page.

    Args:
        rows: of ``<page>.json``.
    """
    lines = [f"# {board.title}", "", *_text(board.text)]
    if board.pictures:
        lines += [f"![{board.title}]({board.name}.svg)", ""]
    for dataset in datasets(rows):
        here = [row for row in rows if row["dataset"] == dataset]
        lines += [f"## {dataset}", "", *_text(_protocol(board, here))]
        for table, chosen in tables(board, here):
            lines += _text(f"### {table['title']}" if table["title"] else "") + _text(table["text"])
            lines += _grid(*_results(board, chosen)) + [""]
        lines += _text("  \n".join(_notes(board, here)))
        for quantity in board.splits:
            lines += _groups(board, here, quantity)
        lines += _cost(here) + _settings(here) + _searches(here)
    return "\n".join([*lines, *_closing(board, rows), ""])


def datasets(rows) -> list[str]:
    return list(dict.fromkeys(row["dataset"] for row in rows))


def tables(board, rows) -> list[tuple[dict, list[dict]]]:
    """Each table of the board with its rows of one data set: in the order it names, else the best first.

    A table that compares rows is left out where a data set has one of them alone.
    """
    named = {row["name"]: row for row in rows}
    found = []
    for table in board.tables:
        chosen = rows if table["rows"] is None else [named[name] for name in table["rows"] if name in named]
        if chosen and len(chosen) >= min(2, len(table["rows"] or chosen)):
            found.append((table, chosen))
    return found


def metrics_of(rows) -> list[str]:
    """The metrics of the rows that ran; where none ran, of those published."""
    for status in ("run", "published"):
        for row in rows:
            if row["status"] == status and row["metrics"]:
                return list(row["metrics"])
    return []


def best_values(rows, metric) -> float | None:
    """The best mean among the rows that ran."""
    values = [row["metrics"][metric] for row in rows if row["status"] == "run" and metric in row["metrics"]]
    means = [value["mean"] for value in values if value["mean"] is not None]
    if not means:
        return None
    return min(means) if any(value.get("smaller_is_better") for value in values) else max(means)


def mark(row, metric) -> int:
    """1 if the row is significantly better than its baseline, -1 if significantly worse, else 0."""
    found = row.get("comparisons", {}).get(metric)
    if not found or found["p_holm"] is None or found["p_holm"] >= SURE or not found["difference"]:
        return 0
    better = (found["difference"] < 0) == bool(row["metrics"][metric].get("smaller_is_better"))
    return 1 if better else -1


def number(value, signed=False) -> str:
    return "" if value is None else f"{value:{'+' if signed else ''}.4f}"


def probability(p) -> str:
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def metric_title(metric) -> str:
    """As papers write it: NDCG@10."""
    name, at, k = metric.partition("@")
    return (_TITLES.get(name) or (name.upper() if len(name) <= 4 else name.capitalize())) + at + k


def _text(text) -> list[str]:
    return [text.strip(), ""] if text.strip() else []


def _grid(head, body) -> list[str]:
    """A Markdown table; a column is on the right unless its title begins with a space."""
    rule = ["---" if title.startswith(" ") else "---:" for title in head]
    cells = [[title.strip() for title in head], rule, *body]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in cells]


def _protocol(board, rows) -> str:
    """Data and protocol in words."""
    row = next((row for row in rows if row["status"] == "run"), None)
    if row is None:
        return "Nothing has run here yet."
    known, judged = row.get("statistics", {}), dict(row["protocol"])
    counts = {name: f"{known[name]:,}" for name in known}
    lines = []
    if counts:
        lines.append(
            f"{counts['users']} users, {counts['items']} items; {counts['train']} interactions for training, "
            f"{counts['valid']} for validation, {counts['test']} for the test."
        )
    split = ", ".join(f"{key} {value}" for key, value in (judged.pop("split", None) or {}).items())
    seen = "seen items masked" if judged.pop("seen_items_masked", False) else "seen items not masked"
    stop = f"training stops on {judged.pop('valid_metric', None)} of the validation part"
    lines.append(
        f"Split {split}, order {judged.pop('order', None)}, grouped by {judged.pop('group_by', None)}, `split_seed` "
        f"{row['split_seed']}; ranking mode {judged.pop('mode', None)}, {seen}; "
        f"{'all epochs are trained' if known.get('valid') == 0 else stop}."
    )
    judged = {key: value for key, value in judged.items() if key not in ("metrics", "topk")}  # the tables show them
    lines.append(f"Seeds of the models: {_seeds(board, rows)}.")
    if negatives := judged.pop("negatives", None):
        lines.append(f"Negatives: {', '.join(f'{key} {value}' for key, value in negatives.items())}.")
    lines += [f"{metric_title(key)}: {value}." for key, value in judged.items()]
    return "  \n".join(lines)


def _seeds(board, rows) -> str:
    """The seeds of all rows, and after them those of rows that have seeds of their own."""
    described = {row.name: row for part in board.parts if part.dataset == rows[0]["dataset"] for row in part.rows}
    own = {row.name for row in described.values() if row.seeds or (row.rerank and described[row.needs["of"]].seeds)}
    shared = dict.fromkeys(seed for row in rows if row["name"] not in own for seed in row["seeds"])
    texts = [", ".join(map(str, shared))] if shared else []
    texts += [
        f"{row['name']}: {', '.join(map(str, row['seeds']))}" for row in rows if row["name"] in own and row["seeds"]
    ]
    return "; ".join(texts)


def _results(board, rows):
    """Head and body of the main table."""
    metrics, primary = metrics_of(rows), board.primary
    best = {metric: best_values(rows, metric) for metric in metrics}
    tested = [row for row in rows if primary in row.get("comparisons", {})]
    head = ["#", " model", *map(metric_title, metrics)]
    head += [f"{metric_title(primary)}, difference [95 %]", "p", "d"] if tested else []
    body = []
    for row in rows:
        note = "" if row["status"] == "run" else f" ({row['status']})"
        line = [row.get("rank", ""), row["name"] + note]
        for metric in metrics:
            value = row["metrics"].get(metric)
            line.append(_value(row, metric, value, best[metric]) if value else "")
        if tested:
            line += _difference(board, row.get("comparisons", {}).get(primary))
        body.append(line)
    return head, body


def _value(row, metric, value, best) -> str:
    text = number(value["mean"])
    if row["status"] == "run" and value["mean"] == best:
        text = f"**{text}**"
    text += f" ± {number(value['std'])}" if value["std"] is not None else ""
    return text + {1: f" {BETTER}", 0: "", -1: f" {WORSE}"}[mark(row, metric)]


def _difference(board, found) -> list[str]:
    if not found:
        return ["", "", ""]
    other = f" to {found['against']}" if found["against"] != board.baseline else ""
    span = number(found["difference"], True)
    span += "" if found["low"] is None else f" [{number(found['low'], True)}, {number(found['high'], True)}]"
    span += other
    effect = "" if found["effect"] is None else f"{found['effect']:+.2f}"
    return [span, probability(found["p_holm"]), effect]


def _notes(board, rows) -> list[str]:
    """What stands under the tables: how the tests were made, best against second, failures, sources."""
    notes = []
    if any(row["status"] == "run" and len(row["seeds"]) > 1 for row in rows):
        notes.append("± is the standard deviation over seeds.")
    tested = [row["comparisons"][board.primary] for row in rows if board.primary in row.get("comparisons", {})]
    if tested:
        notes.append(
            f"Differences are paired over {max(one['n'] or 0 for one in tested):,} users, "
            + (f"against {board.baseline} unless another is named" if board.baseline else "against the row named")
            + ". Their variance is that over users plus that over seeds; intervals are 95 %. p: Student's t, two-sided, "
            f"corrected by Holm for {sum(one['p'] is not None for one in tested)} rows; d: Cohen's d_z over users. "
            f"{BETTER} {WORSE}: better or worse at p < {SURE}."
        )
        if any(_unpaired(row) == {True} for row in rows):
            notes.append(
                "A difference without interval is one of means: a row of the two was run again, and the values of single "
                "users of the other are not at hand."
            )
        mixed = [row["name"] for row in rows if len(_unpaired(row)) == 2]
        if mixed:
            notes.append(
                f"Of {', '.join(mixed)} only {metric_title(board.primary)} is tested: a row of the two was run again, and "
                "the values of single users are kept of that metric alone."
            )
        if any(one["p"] is None and one["test"] != "unpaired" for one in tested):
            notes.append(
                "A difference without p has one seed of a trained model on a side: its interval is over users only, "
                "and whether other seeds would show it is unknown."
            )
        notes.append("One split: what another split of the data would give is not tested.")
    for row in rows:
        if found := row.get("best_against_second"):
            notes.append(
                f"Best against second: {row['name']} is ahead of {found['against']} by {number(abs(found['difference']))} "
                f"{metric_title(found['metric'])} [{number(found['low'], True)}, {number(found['high'], True)}], "
                + (
                    f"p {'' if found['p'] < 0.001 else '= '}{probability(found['p'])} (one test, not corrected)."
                    if found["p"] is not None
                    else "over users only: no p with one seed."
                )
            )
    for row in rows:
        for failure in row.get("failed", []):
            what = "its search" if failure["seed"] is None else f"seed {failure['seed']}"
            notes.append(f"{row['name']}, {what}, failed: {failure['reason']}")
        if row.get("source"):
            notes.append(f"{row['name']}: {row['source']}; published numbers are not tested.")
    return notes


def _unpaired(row) -> set[bool]:
    return {found["test"] == "unpaired" for found in row.get("comparisons", {}).values()}


def _groups(board, rows, quantity) -> list[str]:
    """One quantity: what the rows without a baseline reach in every group, and the differences of the others to theirs."""
    shown = [row for row in rows if quantity in row.get("splits", {})]
    shown = [row for row in shown if board.primary in row["splits"][quantity][0]["metrics"]]
    if not shown:
        return []
    of = shown[0]["splits"][quantity]
    head = [" model", *(f"{group['group']} (n = {group['n']})" for group in of)]
    body = []
    for row in shown:
        cells = [group["metrics"].get(board.primary, {}) for group in row["splits"][quantity]]
        body.append([row["name"], *(_group_cell(cell) for cell in cells)])
    title = f"### {metric_title(board.primary)} by {quantity.replace('_', ' ')} of the user"
    text = "Mean, and the difference to the baseline with its 95 % interval, in groups of users from the least to the most."
    return [title, "", text, "", *_grid(head, body), ""]


def _group_cell(cell) -> str:
    if cell.get("difference") is None:
        return number(cell.get("mean"))
    return f"{cell['mean']:.3f}, {cell['difference']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]"


def _cost(rows) -> list[str]:
    shown = [row for row in rows if row.get("cost")]
    if not shown:
        return []
    head = [
        " model",
        "parameters",
        "epochs",
        "training, s",
        "evaluation, ms a user",
        "peak memory, MiB",
        "trials",
        "minutes in all",
    ]
    body = []
    for row in shown:
        cost, budget = row["cost"], row["budget"]
        trials = f"{budget['trials']} ({budget.get('pruned', 0)} pruned)" if "trials" in budget else ""
        body.append(
            [
                row["name"],
                f"{cost['n_parameters']:,}",
                f"{cost['epochs']:g}" + (f" ({cost['steps']:,.0f} steps)" if cost.get("steps") else ""),
                f"{cost['train_seconds']:.1f}",
                f"{cost['evaluate_ms_per_user']:.2f}",
                "" if cost["peak_mib"] is None else f"{cost['peak_mib']:.0f}",
                trials,
                f"{budget['minutes']:.1f}",
            ]
        )
    text = "Means over seeds (memory: their median); minutes in all: every seed, and the search where there was one."
    devices = dict.fromkeys(device for row in shown for device in row["cost"].get("devices", ()))
    text += f" Seconds of {'; '.join(devices)}." if devices else ""
    return ["### Cost", "", text, "", *_grid(head, body), ""]


def _settings(rows) -> list[str]:
    """What each row sets itself; all else is the protocol, and the defaults of the versions below."""
    body = []
    for row in rows:
        given = row.get("rerank") or row["config"]
        if given and not row.get("tuned"):
            body.append([row["name"], ", ".join(f"`{key}: {_flow(value)}`" for key, value in given.items())])
    return ["### Settings", "", *_grid([" model", " set beside the defaults"], body), ""] if body else []


def _searches(rows) -> list[str]:
    """Best value and range of every parameter, as RecBole's pages have them."""
    body = []
    for row in rows:
        for name, found in row.get("tuned", {}).items():
            edge = f" (at the {found['edge']} end of its range)" if "edge" in found else ""
            body.append([row["name"], f"`{name}`", _flow(found["best"]) + edge, found["range"]])
    lines = ["### Tuning", "", *_grid([" model", " parameter", " best", " range"], body), ""] if body else []
    return lines + _selections(rows)


def _selections(rows) -> list[str]:
    """How the settings of tuned rows were chosen over several seeds."""
    body = []
    for row in rows:
        told = row.get("selection")
        for each in told["finalists"] if told else ():
            settings = ", ".join(f"`{name}: {_flow(value)}`" for name, value in each["params"].items())
            chosen = "chosen" if each["number"] == told["chosen"] else ""
            number = f"{len(told['seeds'])}"
            body.append([row["name"], settings, number, f"{each['mean']:.4f}", f"{told['standard_error']:.4f}", chosen])
    if not body:
        return []
    text = (
        "Mean validation score of the best trials over several seeds. Chosen is the simplest within one standard error "
        "(SE, its variance pooled over the row's trials) of the best mean: fewest parameters, then the simpler values, "
        "then the better mean."
    )
    return [
        "### Choice over seeds",
        "",
        text,
        "",
        *_grid([" model", " settings", "seeds", "mean", "SE", " "], body),
        "",
    ]


def _flow(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _closing(board, rows) -> list[str]:
    minutes = sum(row["budget"].get("minutes", 0) for row in rows)
    lines = [
        f"Printed by `recbole-persona leaderboard {board.file.name}`; {minutes / 60:.2f} hours of computing in all."
    ]
    if kept := [row["per_user"] for row in rows if "digits" in row.get("per_user", {})]:
        lines.append(
            f"{metric_title(kept[0]['metric'])} of every user, entry and seed: `{board.name}{SUFFIX}`"
            + _without([row for row in rows if "left_out" in row.get("per_user", {})])
        )
    versions = next((row["versions"] for row in rows if row.get("versions")), None)
    if versions:
        lines.append(f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.")
    return ["  \n".join(lines)]


def _without(rows) -> str:
    names = "; ".join(f"{row['name']} on {row['dataset']}" for row in rows)
    return f", without {names}, for which 2 MB leave no room." if names else "."


def table(board: Board, rows: list[dict]) -> str:
    """CSV: one line for each row and metric."""
    columns = ["dataset", "name", "model", "status", "rank", "metric", "mean", "std", "n"]
    tested = ["against", "difference", "low", "high", "p", "p_holm", "effect"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, *tested])
    for row in rows:
        fixed = [row["dataset"], row["name"], row["model"] or "", row["status"], row.get("rank", "")]
        for metric, value in row["metrics"].items() or [("", {})]:
            found = row.get("comparisons", {}).get(metric, {})
            values = [value.get("mean"), value.get("std"), value.get("n"), *(found.get(key) for key in tested)]
            writer.writerow([*fixed, metric, *("" if cell is None else cell for cell in values)])
    return out.getvalue()


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def latex(board: Board, rows: list[dict]) -> str:
    """A ``table`` environment for each data set and table (package booktabs)."""
    parts = []
    for dataset in datasets(rows):
        here = [row for row in rows if row["dataset"] == dataset]
        for shown, chosen in tables(board, here):
            caption = f"{shown['title'] or board.title}, {dataset}."
            parts += _latex_table(board, chosen, _escaped(caption))
    return "\n".join(["% needs \\usepackage{booktabs}", *parts, ""])


def _latex_table(board, rows, caption) -> list[str]:
    metrics = metrics_of(rows)
    best = {metric: best_values(rows, metric) for metric in metrics}
    signs = {1: r"\uparrow", 0: "", -1: r"\downarrow"}
    body = []
    for row in rows:
        cells = [_escaped(row["name"] + ("" if row["status"] == "run" else f" ({row['status']})"))]
        for metric in metrics:
            value = row["metrics"].get(metric, {"mean": None})
            text = number(value["mean"])
            if row["status"] == "run" and text and value["mean"] == best[metric]:
                text = rf"\mathbf{{{text}}}"
            text += rf" \pm {number(value['std'])}" if value.get("std") is not None else ""
            sign = signs[mark(row, metric)]
            cells.append(f"${text}{f'^{{{sign}}}' if sign else ''}$" if text else "--")
        body.append(" & ".join(cells) + r" \\")
    marked = any(mark(row, metric) for row in rows for metric in metrics)
    note = rf" $\uparrow\downarrow$: better or worse than {_escaped(board.baseline or 'the baseline')}, $p < {SURE}$ (Holm)."
    return [
        r"\begin{table}",
        rf"\caption{{{caption}{note if marked else ''}}}",
        rf"\begin{{tabular}}{{l{'r' * len(metrics)}}}",
        r"\toprule",
        " & ".join(["", *(_escaped(metric_title(metric)) for metric in metrics)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _escaped(text) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
