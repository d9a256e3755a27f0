"""Small data sets in the layouts of WILDS' Camelyon17, iWildCam and FMoW, with images of noise."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

FMOW_CLASSES = ("airport", "dam", "zoo")
COUNTRIES = (("FRA", "Europe"), ("KEN", "Africa"), ("BRA", "Americas"), ("JPN", "Asia"))


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A csv table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_image(path: Path, rng: np.random.Generator, size: tuple[int, int], shade: int) -> None:
    """Noise around a shade, H x W of RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(rng.normal(shade, 40, (*size, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_camelyon17(root: Path) -> Path:
    """5 hospitals of 2 slides each, 8 patches of 96 x 96 on a slide, 2 of them in id_val (split 1)."""
    folder, rng, rows = root / "camelyon17_v1.0", np.random.default_rng(0), []
    for slide in range(10):
        for k in range(8):
            place = f"{slide:03}", slide % 3, 32 * k, 64
            stem = "patch_patient_{}_node_{}_x_{}_y_{}.png".format(*place)
            path = folder / "patches" / f"patient_{place[0]}_node_{place[1]}" / stem
            write_image(path, rng, (96, 96), 80 + 60 * (k % 2))
            rows.append([len(rows), *place, k % 2, slide // 2, slide, int(k >= 6)])
    names = ("patient", "node", "x_coord", "y_coord", "tumor", "center", "slide", "split")
    write_rows(folder / "metadata.csv", ["", *names], rows)
    (folder / "RELEASE_v1.0.txt").touch()
    return root


def write_iwildcam(root: Path) -> Path:
    """6 cameras, 8 JPEG images each of different sizes, 3 species."""
    folder, rng, rows = root / "iwildcam_v2.0", np.random.default_rng(0), []
    splits = {0: "train", 1: "train", 2: "train", 3: "val", 4: "test", 5: "test"}
    for location in range(6):
        for k in range(8):
            name = f"{location}_{k}.jpg"
            write_image(folder / "train" / name, rng, (40 + 4 * location, 60), 60 + 40 * (k % 3))
            split = splits[location]
            split = {6: "id_val", 7: "id_test"}.get(k, split) if split == "train" else split
            when = f"2013-06-05 05:44:1{k}.000"
            rows.append([split, f"id{location}{k}", when, name, k % 3, location, 2 * location + k // 4])
    names = ("split", "image_id", "datetime", "filename", "y", "location_remapped", "sequence_remapped")
    write_rows(folder / "metadata.csv", names, rows)
    write_rows(folder / "categories.csv", ("y", "category_id", "name"), [(0, 0, "empty"), (1, 7, "puma")])
    (folder / "RELEASE_v2.0.txt").touch()
    return root


def write_fmow(root: Path) -> Path:
    """4 countries, 3 classes, years from 2010 to 2017, and a sequestered image."""
    folder, rng, rows = root / "fmow_v1.1", np.random.default_rng(0), []
    for year in range(2010, 2018):
        for place, (country, _) in enumerate(COUNTRIES):
            for k, kind in enumerate(FMOW_CLASSES):
                for split in ("train", "val", "test"):
                    rows.append([split, country, kind, f"{year}-0{1 + place}-08T10:10:19Z"])
                    write_image(
                        folder / "images" / f"rgb_img_{len(rows) - 1}.png", rng, (32, 32), 60 + 50 * k
                    )
    rows.insert(5, ["seq", "FRA", "zoo", "2012-02-08T10:10:19Z"])
    write_image(folder / "images" / f"rgb_img_{len(rows) - 1}.png", rng, (32, 32), 250)
    names = ("split", "country_code", "category", "timestamp")
    write_rows(folder / "rgb_metadata.csv", names, rows)
    write_rows(folder / "country_code_mapping.csv", ("alpha-3", "region"), COUNTRIES)
    (folder / "RELEASE_v1.1.txt").touch()
    return root
