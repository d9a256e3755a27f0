"""The page of answers from made-up tables: numbers, what not to trust, caps, names that would be markup."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from abra_wilds.board.report import answers
from abra_wilds.board.report.answers import answers_page
from abra_wilds.commands import predict
from abra_wilds.errors import InputError
from tests.board.report.answer_folders import certify, doubts, write


def section(page, name):
    """The text of a section."""
    part = page[page.index(f'<h2 id="{name}"') :]
    return " ".join(re.sub(r"<[^>]+>", " ", part[: part.index("</section>")]).split())


def test_the_answer_comes_first_with_names_and_numbers(tmp_path):
    folder = write(tmp_path / "a", change=doubts, qc=True)
    certify(folder, "<P2>")
    page, summary = answers_page(folder)
    assert summary == (
        "16 sites in 8 wells of 2 plates were predicted by the model m.pth, trained on rxrx1, adapted by "
        "eb_bn. Estimated accuracy, without labels: 56%, 31% to 82% by bio-batch. "
        "2 of 2 plates should not be trusted: P1, <P2>. "
        "Quality control flags 2 of 16 sites. The advice is not to adapt for 1 of 2 certificates."
    )
    assert "P1 2 of 8 sites flagged &lt;P2&gt; at most 40% are right" in section(page, "plates")
    assert page.index('id="summary"') < page.index("<nav") < page.index('id="plates"')


def test_without_certificates_and_flags_nothing_says_which_plates_to_trust(tmp_path):
    _, summary = answers_page(write(tmp_path / "a", change=doubts))
    assert "Nothing says which plates to trust: --tta eb_bn" in summary
    assert "of 2 plates should" not in summary


def test_wells_not_to_trust_say_why_the_flagged_first(tmp_path):
    folder = write(tmp_path / "a", ["P1", "P3", "P4"], change=doubts, qc=True)
    certify(folder)
    sites = pd.read_parquet(folder / "sites.parquet")
    sites.loc[[3, 16], "Metadata_QC"] = ["", "empty"]  # one of 8 sites a plate
    sites.to_parquet(folder / "sites.parquet")
    page, summary = answers_page(folder)
    assert "0 of 3 plates" in summary and "5 of the 12 wells should not be trusted (2 flagged" in summary
    rows = section(page, "wells").split("Why ")[1]
    assert rows == (
        "P1 A02 taxol 0.90 1 of 2 sites flagged: blurred, dim ER P4 A01 taxol 0.90 1 of 2 sites flagged: "
        "empty P1 A01 DMSO 0.30 probability 0.30 P3 A02 taxol 0.30 probability 0.30 P1 H12 taxol 0.60 "
        "spread over 7 classes"
    )


def test_maps_shade_probability_and_mark_the_wells_not_to_trust(tmp_path):
    page, _ = answers_page(write(tmp_path / "a", change=doubts))
    maps = re.findall(r"<svg.*?</svg>", page[page.index('id="maps"') :], re.S)
    assert len(maps) == 2
    marks = re.findall(r'class="mark" x="([\d.]+)" y="([\d.]+)">(\w)<', maps[0])
    assert sorted((m, int(float(x)), int(float(y))) for x, y, m in marks) == [("P", 0, 0), ("S", 11, 7)]
    shades = {kind: len(re.findall("M", d)) for kind, d in re.findall(r'class="(w\d)" d="([^"]+)"', maps[0])}
    assert shades == {"w1": 1, "w3": 1, "w4": 2}  # 0.3; 0.6; twice 0.9


def test_predictions_and_scores_by_plate(tmp_path):
    scores = {"wells": {"n": 8, "accuracy": 0.875, "balanced_accuracy": 0.75}}
    page, _ = answers_page(write(tmp_path / "a", change=doubts, about={"scores": scores}))
    assert "P1 4 2 taxol 3 (75%), DMSO 1 (25%)" in section(page, "predictions")
    said = section(page, "scores")
    assert "wells 8 87.5 75.0" in said and "&lt;P2&gt; 4 3 75.0 P1 4 4 100.0" in said
    page, _ = answers_page(write(tmp_path / "b"))
    assert 'id="scores"' not in page and "DNA (here Hoechst)" in page


def test_certificates_are_drawn_with_their_interval(tmp_path):
    folder = write(tmp_path / "a")
    certify(folder, "<P2>")
    page, _ = answers_page(folder)
    assert "&lt;P2&gt; 31 (20 to 90); P1 82 (20 to 90)" in page
    assert "&lt;P2&gt; 8 31 20 to 90 no do not adapt: it gains 6" in section(page, "worth")
    page, _ = answers_page(write(tmp_path / "b"))
    assert "Not known: it is estimated with --tta eb_bn" in section(page, "worth")


def test_a_folder_by_plate_makes_the_same_page(tmp_path):
    made = [write(tmp_path / n, change=doubts, qc=True, by_plate=n == "b") for n in "ab"]
    assert answers_page(made[0]) == answers_page(made[1])


def test_many_plates_are_capped_and_the_page_says_how_many_are_left_out(tmp_path, monkeypatch):
    folder = write(tmp_path / "a", [f"P{k}" for k in range(9)])
    for name, most in {"MOST_MAPS": 2, "MOST_PLATES": 4}.items():
        monkeypatch.setattr(answers, name, most)
    page, _ = answers_page(folder)
    assert page[page.index('id="maps"') :].count("<svg") == 2
    assert "2 of 9 plates; the 7 left out have as few or fewer" in section(page, "maps")
    assert "These are 4 of 9; 5 are left out here." in section(page, "predictions")


@pytest.mark.parametrize("column", ["Predicted", "Metadata_Plate"])
def test_names_that_are_markup_are_text_and_nothing_is_asked_of_a_network(tmp_path, column):
    def change(wells):
        wells[column] = "<script>alert(1)</script>"
        wells["Probability"] = 0.1

    page, _ = answers_page(write(tmp_path / "a", ["P"], change=change))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no answers of predict --screen"):
        answers_page(tmp_path)


def test_without_the_extra_a_line_says_what_is_not_made(tmp_path, monkeypatch, capsys):
    def lacking(what):
        raise InputError(f"{what} need the package jinja2, which is not installed")

    monkeypatch.setattr(predict, "check_board_packages", lacking)
    predict.write_page(write(tmp_path / "a"))
    said = capsys.readouterr().out
    assert said == "answers.html is not made: pages need the package jinja2, which is not installed\n"
    assert not (tmp_path / "a" / "answers.html").exists()
    monkeypatch.undo()
    predict.write_page(tmp_path / "a")
    assert (tmp_path / "a" / "answers.html").stat().st_size > 5000
