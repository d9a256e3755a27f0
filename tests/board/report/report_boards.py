"""Runs with curves and a figure beside them, and a page's tags and tables, for tests of report.py."""

from __future__ import annotations

from html.parser import HTMLParser

from abra_wilds.board.figures.style import new_figure, note, save_figure
from abra_wilds.results.runs import read_run
from tests.board import boards

EPOCHS = "epoch,batch,objective,L_clean,R_JS,K_rel_mean,lr\n"


class Page(HTMLParser):
    """Tags with attributes, in order, and tables as lists of cell texts by caption."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.open, self.cell = [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.rows, self.caption = [], ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "caption"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
        if tag == "caption":
            self.caption = self.cell
        if tag in ("td", "th", "caption"):
            self.cell = None
        if tag == "table":
            self.tables[self.caption] = self.rows

    def table(self, *parts):
        (found,) = [rows for caption, rows in self.tables.items() if all(p in caption for p in parts)]
        return found


def write_curves(folder, falling=3.0):
    """Logs of three epochs as a run of ABRA leaves them."""
    rows = [f"{k},4,{falling - k},{falling / 2},1e-{k + 3},0.1,0.01\n" for k in range(3)]
    (folder / "train_algo.csv").write_text(EPOCHS + "".join(rows))
    (folder / "val_eval.csv").write_text("epoch,acc_avg\n" + "".join(f"{k},0.{k + 1}\n" for k in range(3)))


def make_logs(screen, folder):
    """Two seeds of ABRA with an adaptation each, one of ERM, and a figure beside them."""
    for seed in (0, 1):
        run = boards.make_run(screen, folder / "logs" / f"abra{seed}", seed, **boards.ADAPTED)
        write_curves(run, 3.0 + seed)
    boards.make_run(screen, folder / "logs" / "erm", 0, algorithm="ERM")
    figure = new_figure("Shift <by> layer", 3, 2, simulated=True)
    figure.subplots().plot([1, 2])
    note(figure, "TTA is advisable.")
    (folder / "figures").mkdir()
    of = {"config_sha256": read_run(folder / "logs" / "abra0").config["digest"]}
    save_figure(figure, [{"kl": 1.5, **of}], folder / "figures", "figure_8_ABRA_seed0_best")
    return folder / "logs"
