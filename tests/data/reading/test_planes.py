"""Single planes by reference, against the arrays that were written."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from abra_wilds.data.reading.planes import fit_to, read_plane, read_site
from tests.data.datasets.test_catalogue import refused


def levels(*shape, high=65536, dtype=np.uint16):
    return np.random.default_rng(len(shape)).integers(0, high, shape).astype(dtype)


DEEP, STACK, HYPER = levels(6, 5), levels(7, 6, 5), levels(2, 3, 6, 5)


def equal(reference, wanted):
    plane = read_plane(str(reference))
    assert plane.dtype == wanted.dtype and plane.flags["C_CONTIGUOUS"] and plane.dtype.isnative
    return np.array_equal(plane, wanted)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF", "plate#1.png", "a b#2.tif"])
def test_a_grey_file_is_read_as_it_was_written(tmp_path, name, dtype):
    x = levels(6, 5, high=256 ** np.dtype(dtype).itemsize, dtype=dtype)
    if name.endswith(".png"):
        Image.fromarray(x).save(tmp_path / name)
    else:
        tifffile.imwrite(tmp_path / name, x)
    assert equal(tmp_path / name, x)


@pytest.mark.parametrize("how", ["zlib", "lzw", "big-endian", "tiled"])
def test_every_common_way_of_writing_a_tiff_is_read(tmp_path, how):
    path, x = tmp_path / "a.tif", levels(64, 48)
    if how == "lzw":
        Image.fromarray(x).save(path, compression="tiff_lzw")
    else:
        options = {
            "zlib": {"compression": "zlib", "predictor": True},
            "big-endian": {"byteorder": ">"},
            "tiled": {"tile": (16, 16)},
        }
        tifffile.imwrite(path, x, **options[how])
    assert equal(path, x)


def test_planes_and_channels_of_tiffs_are_named(tmp_path):
    plain, ome, imagej = (tmp_path / name for name in ("a.tif", "a.ome.tif", "ij.tif"))
    tifffile.imwrite(plain, STACK, photometric="minisblack")
    tifffile.imwrite(ome, HYPER, photometric="minisblack", metadata={"axes": "CZYX"})
    tifffile.imwrite(imagej, HYPER, imagej=True, metadata={"axes": "ZCYX"})
    assert equal(f"{plain}#plane=5", STACK[5]) and equal(f"{plain}#plane=max", STACK.max(0))
    assert equal(f"{plain}#channel=5", STACK[5])  # the file gives its axis no name
    assert equal(f"{ome}#channel=1&plane=2", HYPER[1, 2]) and equal(f"{ome}#c=0&z=max", HYPER[0].max(0))
    assert equal(f"{imagej}#channel=2&plane=1", HYPER[1, 2])
    refused(rf"{plain} holds 7 planes; name one, as in {plain}#z=0, or the brightest", read_plane, str(plain))
    refused(r"holds 2 channels; name one, as in .*#c=0$", read_plane, f"{ome}#z=0")
    refused("asks for z=7 of 7 planes", read_plane, f"{plain}#plane=7")
    refused("asks for z=-1 of 7 planes", read_plane, f"{plain}#plane=-1")
    refused("asks for c=max of 2 channels", read_plane, f"{ome}#c=max&z=0")
    refused("asks for t=1 of 1 times", read_plane, f"{plain}#plane=0&t=1")
    refused("has the key 'page'; choose c, channel", read_plane, f"{plain}#page=0")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 4}])
def test_a_tiff_that_was_cut_off_is_refused(tmp_path, options):
    path, x = tmp_path / "a.tif", levels(32, 32)
    tifffile.imwrite(path, x, **options)
    body = path.read_bytes()
    for length in range(0, len(body) - 1, 97):
        path.write_bytes(body[:length])
        refused("a.tif cannot be read", read_plane, str(path))


def test_pages_of_an_lzw_stack_are_read(tmp_path):
    first, *others = map(Image.fromarray, STACK)
    path = tmp_path / "lzw.tif"
    first.save(path, compression="tiff_lzw", save_all=True, append_images=others)
    assert equal(f"{path}#plane=3", STACK[3]) and equal(f"{path}#plane=max", STACK.max(0))


def test_whole_numbers_of_any_kind_become_16_bits(tmp_path):
    path = tmp_path / "a.tif"
    for dtype in (np.float32, np.float64, np.uint32, np.int32):
        tifffile.imwrite(path, DEEP.astype(dtype))
        assert equal(path, DEEP)
    share = levels(6, 5) / 65535
    tifffile.imwrite(path, share)
    assert equal(f"{path}#scale=65535", np.rint(share * 65535).astype(np.uint16))
    refused(rf"float64 that are not whole .* as in {path}#scale=1000", read_plane, str(path))
    refused("no number above 0 as its scale", read_plane, f"{path}#scale=no")
    for wrong in (np.int16(-1), np.float32(65536), np.float32("nan"), np.uint32(65536)):
        tifffile.imwrite(path, np.full((6, 5), wrong))
        refused("that are not whole numbers from 0 to 65535", read_plane, str(path))


def test_what_is_no_grey_plane_is_refused(tmp_path):
    rgb = levels(6, 5, 3, high=256, dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    Image.fromarray(rgb).save(tmp_path / "rgb.jpg")
    (tmp_path / "torn.tif").write_bytes(b"II*\0")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    for name, match in {
        "rgb.png": "rgb.png has pixels of mode RGB, and a channel is one grey plane",
        "rgb.tif": "rgb.tif has the axes YXS, and a channel is one grey plane",
        "rgb.jpg": "rgb.jpg is no .png, .tif, .tiff or field of a .zarr",
        "torn.tif": "torn.tif cannot be read",
        "torn.png": "torn.png cannot be read",
        "gone.tif": "gone.tif cannot be read .*No such file",
        "gone.zarr/A/1/0#c=0": "gone.zarr/A/1/0 cannot be read",
    }.items():
        refused(match, read_plane, str(tmp_path / name))


def test_a_site_has_channels_of_one_size_and_depth(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.png", "b.tif", "c.png", "d.png")]
    Image.fromarray(DEEP).save(paths[0])
    tifffile.imwrite(paths[1], DEEP[::-1])
    Image.fromarray(DEEP[:5]).save(paths[2])
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(paths[3])
    x = read_site(paths[:2])
    assert x.dtype == torch.uint16 and np.array_equal(x.numpy(), np.stack([DEEP, DEEP[::-1]]))
    refused("c.png is 5 x 5 pixels of uint16 and .*a.png is 6 x 5", read_site, [paths[0], paths[2]])
    refused("d.png is 6 x 5 pixels of uint8 and .*a.png is .* of uint16", read_site, [paths[0], paths[3]])


def test_illumination_is_divided_out_rounded_and_cut_off(tmp_path):
    x = np.array([[100, 1000], [40000, 65535]], np.uint16)
    lamp = np.array([[3.0, 1.0], [0.5, 2.0]])
    Image.fromarray(x).save(tmp_path / "a.png")
    path = tmp_path / "lamp.npy"
    np.save(path, lamp)
    references = [str(tmp_path / "a.png")] * 2
    y = read_site(references, ["", str(path)])
    assert y.dtype == torch.uint16 and y.tolist() == [x.tolist(), [[33, 1000], [65535, 32768]]]
    for wrong, match in {
        "size": (lamp[:1], "no array of 2 x 2 numbers"),
        "zero": (lamp * 0, "values that are not above 0"),
        "nan": (lamp * np.nan, "values that are not above 0"),
        "objects": (np.array([[{}, 1], [2, 3]], dtype=object), "cannot be read"),
    }.values():
        np.save(path, wrong, allow_pickle=True)
        refused(f"{path} .*{match}", read_site, references, ["", str(path)])
    refused("gone.npy cannot be read", read_site, references, [str(tmp_path / "gone.npy"), ""])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("side", "shape"), [(4, (9, 13)), (3, (9, 9)), (9, (9, 12))])
def test_fitting_bins_and_takes_the_middle(dtype, side, shape):
    x = levels(2, *shape, high=256 ** np.dtype(dtype).itemsize, dtype=dtype)
    f = min(shape) // side
    top, left = (shape[0] - f * side) // 2, (shape[1] - f * side) // 2
    y = fit_to(x, side, "a.png")
    assert y.dtype == dtype and y.shape == (2, side, side)
    for c in range(2):
        for i in range(side):
            for j in range(side):
                block = x[c, top + f * i : top + f * (i + 1), left + f * j : left + f * (j + 1)]
                assert y[c, i, j] == int(block.mean(dtype=float) + 0.5)
    refused("a.png is 9 x .* smaller than image_size 14", fit_to, x, 14, "a.png")
