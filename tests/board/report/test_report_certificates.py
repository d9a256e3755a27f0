"""The section of certificates: read from the files beside predictions, refused where they are damaged."""

import pytest

from abra_wilds.board.report.certificates import HEADER, certificate_rows, certified
from abra_wilds.board.report.page import report
from abra_wilds.board.report.parts import read_groups
from abra_wilds.engine.evaluation.certificates import PlateCertificate, certificates_path, write_certificates
from abra_wilds.errors import InputError
from abra_wilds.results.runs import find_runs
from tests.board import boards

GOOD = PlateCertificate(
    *("test", "HEPG2-08 plate 1", 40, 0.62, 0.5, 0.74, 0.9, True, "", 1.1, 0.05, 0.02, 0.25),
    *("adapt", "of 8 controls it gains 6 and loses 0"),
)
BAD = PlateCertificate(
    *("test", "<b>RPE-02", 12, 0.2, 0.1, 0.4, 0.9, False, "controls are worse", 2.0, 0.01, 0.4, 0.5),
    *("cannot tell", "its class mix is unusual (spread 0.40)"),
)


def test_rows_are_the_files_in_words(tmp_path):
    path = certificates_path(tmp_path / "rxrx1_split:test_seed:0_epoch:best_tta:eb_bn_pred.csv")
    write_certificates(path, [GOOD, BAD])
    assert path.name == "rxrx1_split:test_seed:0_epoch:best_tta:eb_bn_certificates.csv"
    first, second = certificate_rows(path)
    assert len(first) == len(HEADER)
    assert first[:6] == ["HEPG2-08 plate 1", "40", "62.0", "50 to 74", "yes", "adapt"]
    assert second[4:] == ["no: controls are worse", "cannot tell", BAD.because, "50.0", "0.40"]


@pytest.mark.parametrize("content", ["", "split,bio_batch\ntest,a\n", b"\xff\xfe"])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "a_certificates.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if content == "":
        assert certificate_rows(path) == []
        return
    with pytest.raises(InputError, match="holds no certificates; predict again"):
        certificate_rows(path)


def test_a_page_shows_them_for_the_split_that_it_speaks_of(tmp_path):
    screen = boards.make_screen(tmp_path / "screen")
    boards.make_run(screen, tmp_path / "runs", 0)
    runs = find_runs(tmp_path / "runs")
    assert certified(read_groups(runs)) == [] and "There are none" in report(runs)
    (predictions,) = (tmp_path / "runs").rglob("*split:test_*best_pred.csv")
    write_certificates(certificates_path(predictions), [GOOD, BAD])
    page = report(runs)
    assert GOOD.because in page and "&lt;b&gt;RPE-02" in page and "<b>RPE-02" not in page
