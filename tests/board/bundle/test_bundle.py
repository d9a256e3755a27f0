"""leaderboard/bundle.py: nine files and a page, exactly, and which rows are standard."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from abra_wilds.commands.board.bundle import main as bundle_main
from abra_wilds.results.records import RESULTS, read_records
from tests import disks
from tests import runs as tiny
from tests.board import boards
from tests.board.boards import SPLITS, change_records, make_runs, script

NINE = {
    f"rxrx1/rxrx1_split:{split}_seed:{seed}_epoch:best_pred.csv" for split in SPLITS for seed in (0, 1, 2)
}


def unpacked(path):
    """{name: content} of an archive, by the standard library alone."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar.getmembers()}


@pytest.mark.parametrize("name", ["b.tar.gz", "b.zip"])
def test_the_archive_holds_nine_files_and_a_page_with_the_bytes_that_were_scored(five, tmp_path, name):
    out = tmp_path / name
    assert bundle_main([str(five), "--out", str(out)]) == 0
    files = unpacked(out)
    assert set(files) == NINE | {"README.md"}
    for member in NINE:
        file = member.removeprefix("rxrx1/")
        seed = file.split("seed:")[1].split("_")[0]
        assert files[member] == (five / f"seed{seed}" / file).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["b.tar.gz", "b.zip"])
def test_the_same_runs_give_the_same_bytes(five, tmp_path, name):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        assert bundle_main([str(five), "--out", str(tmp_path / folder / name)]) == 0
    assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_the_script_runs_from_anywhere_and_without_torch(five, tmp_path):
    script("bundle.py", five, "--out", "b.zip", cwd=tmp_path, absent="torch pandas numpy wilds")
    assert set(unpacked(tmp_path / "b.zip")) == NINE | {"README.md"}


def test_the_page_has_balanced_accuracy_and_the_class_mix_where_records_have_them(three, tmp_path):
    for seed, acc in enumerate((0.2, 0.3, 0.4)):
        mix = {"plate": 0.25, "experiment": 0.0}
        change_records(three / f"seed{seed}", "test", acc_balanced=acc, class_mix=mix)
    assert bundle_main([str(three), "--out", str(tmp_path / "b.zip")]) == 0
    page = unpacked(tmp_path / "b.zip")["README.md"].decode()
    shown = {c[0].strip("| "): c[3] for c in (line.split(" | ") for line in page.splitlines()) if len(c) > 4}
    assert (shown["split"], shown["`test`"], shown["`val`"]) == ("balanced", "30.0 ± 10.0", "-")
    assert "each): test 0.25 over plates, 0.00 over experiments.\n" in page


def test_the_page_says_what_it_is(five, tmp_path, capsys):
    out = tmp_path / "b.zip"
    flags = ["--contact", "a@example.org", "--paper_url=https://p.example", "--code_url=https://c.example"]
    assert bundle_main([str(five), "--out", str(out), *flags]) == 0
    page = unpacked(out)["README.md"].decode()
    records = {(r.split, r.seed): r for s in (0, 1, 2) for r in read_records(five / f"seed{s}" / RESULTS)}
    accs = [100 * records["test", seed].acc for seed in (0, 1, 2)]
    mean = sum(accs) / 3
    std = (sum((a - mean) ** 2 for a in accs) / 2) ** 0.5
    assert f"| `test` | {records['test', 0].n:,} | {mean:.1f} ± {std:.1f} |" in page
    assert all(f"| {seed} |" in page and f"{acc:.2f}" in page for seed, acc in enumerate(accs))
    for said in (
        *(
            "ABRA; unofficial",
            "- Submission: standard\n",
            "- Model: resnet50\n",
            "- First weights: ImageNet\n",
        ),
        *("- Seeds: 0, 1, 2\n", "7, 8, 9 for these seeds", "a@example.org", "https://p.example"),
        *("https://c.example", "python examples/run_expt.py --algorithm ABRA --seed 2\n", "Commit 0123abc"),
        *("wilds 2.0.0", "| `lr` | 0.01 | preset paper |", "RxRx1-WILDS 1.0", "CC BY-NC-SA 4.0"),
    ):
        assert said in page, said
    assert "| `seed`" not in page and "| `log_dir`" not in page


def test_simulated_data_are_marked_first_on_the_page_and_on_the_screen(five, tmp_path, capsys):
    assert bundle_main([str(five), "--out", str(tmp_path / "b.zip")]) == 0
    page = unpacked(tmp_path / "b.zip")["README.md"].decode()
    assert page.splitlines()[2].startswith("> **SIMULATED DATA. NOT A SUBMISSION.**")
    assert "SIMULATED DATA" in capsys.readouterr().out


def test_an_adapted_row_is_non_standard_and_comes_from_its_own_folder(five, tmp_path, refused_bundle):
    tiny.assert_says(refused_bundle(five, "--tta", "plate_bn"), "non-standard", "batch statistics", "rule 6")
    out = tmp_path / "b.zip"
    assert bundle_main([str(five), "--out", str(out), "--tta", "plate_bn", "--non_standard"]) == 0
    files = unpacked(out)
    assert set(files) == NINE | {"README.md"}
    page = files["README.md"].decode()
    assert page.startswith("# ABRA with test-time adaptation plate_bn on RxRx1-WILDS")
    assert "- Submission: non-standard: batch statistics" in page
    assert '| `tta` | "plate_bn" | prediction |' in page
    model = f"{five}/seed1/rxrx1_seed:1_epoch:best_model.pth"
    assert f"abra-wilds predict {model} --tta plate_bn\n" in page


def test_a_run_adapted_in_training_is_non_standard(screen, tmp_path, refused_bundle):
    make_runs(screen, tmp_path / "runs", algorithm="ARM-BN")
    assert "non-standard, because of batch statistics" in refused_bundle(tmp_path / "runs")
    assert bundle_main([str(tmp_path / "runs"), "--out", str(tmp_path / "b.zip"), "--non_standard"]) == 0


def consumed(three, **changes):
    for seed in (0, 1, 2):
        change_records(three / f"seed{seed}", consumed=boards.CONSUMED | changes)


@pytest.mark.parametrize(
    ("weights", "standard"),
    [
        (None, True),
        ("ImageNet", True),
        ("vit_small_patch14_dinov2.lvd142m, published by timm", False),
        ("the weights of other.pth", False),
    ],
)
def test_other_weights_than_imagenets_are_outside_data(three, tmp_path, refused_bundle, weights, standard):
    consumed(three, outside_data=weights)
    if not standard:
        tiny.assert_says(refused_bundle(three), weights, "rule 5", "--non_standard")
    flags = [] if standard else ["--non_standard"]
    assert bundle_main([str(three), "--out", str(tmp_path / "b.zip"), *flags]) == 0
    assert f"- First weights: {weights or 'random'}\n" in unpacked(tmp_path / "b.zip")["README.md"].decode()


def test_test_images_that_change_a_model_otherwise_enter_no_submission(three, refused_bundle):
    consumed(three, test_images=True)
    assert "changed the model of" in refused_bundle(three, "--non_standard")


@pytest.mark.parametrize("name", ["b.tar.gz", "b.zip"])
@pytest.mark.parametrize("room", [0, 300])
def test_an_archive_that_the_disk_cannot_hold_leaves_the_old_one_and_the_same_command_works(
    three, tmp_path, capsys, name, room
):
    out = tmp_path / name
    out.write_text("old")
    with pytest.MonkeyPatch.context() as patch:
        disks.fill(patch, tmp_path, f"*{name}*", room)
        said = tiny.sentence(capsys, bundle_main, [str(three), "--out", str(out)], code=1)
    tiny.assert_says(said, f"No space left on device ({out}); make room there; the same command")
    assert out.read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == [name, "runs"]
    assert bundle_main([str(three), "--out", str(out)]) == 0
    assert set(unpacked(out)) == NINE | {"README.md"}
