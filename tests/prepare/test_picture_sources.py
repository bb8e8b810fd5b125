"""Pictures keep their colours, bits and pages when they are converted."""

import sys

import numpy as np
import pytest
from conversions import COLOURS, DISC, GREY, convert, read
from helpers import assert_refused
from PIL import Image

from guided_diffusion.errors import DataError
from guided_diffusion.prepare.case_writer import CaseFolder, RawCase
from guided_diffusion.prepare.formats.converters import FORMATS, ConvertConfig
from guided_diffusion.prepare.formats.converters import convert as convert_source

imagecodecs = pytest.importorskip("imagecodecs")
tifffile = pytest.importorskip("tifffile")

DEEP = COLOURS.astype(np.uint16) * 256 + 7


def put(folder, picture, name="scan.png", mask=DISC, **how):
    """Write a case of one rater."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(folder / name, **how)
    if mask is not None:
        Image.fromarray(mask).save(folder / "mask0.png")


def bytes_of(array, name="scan.png"):
    """Write an array that Pillow does not write."""

    def write(folder):
        put(folder, GREY)
        (folder / "scan.png").unlink()
        if name.endswith(".npy"):
            np.save(folder / name, array)
        elif name.endswith(".tif"):
            tifffile.imwrite(folder / name, array, photometric="rgb")
        else:
            (folder / name).write_bytes(imagecodecs.png_encode(array))

    return write


def picture_of(picture, name="scan.png", **how):
    return lambda folder: put(folder, picture, name, **how)


OPAQUE = np.dstack([COLOURS, np.full_like(GREY, 200)])
RANGED = (COLOURS - 37.0) / 163  # from 37 to 200
# kind -> (writer, expected planes, tolerance)
IN_COLOUR = {
    "png": (picture_of(COLOURS), COLOURS / 255, 0),
    "tif": (picture_of(COLOURS, "scan.tif"), COLOURS / 255, 0),
    "bmp": (picture_of(COLOURS, "scan.BMP"), COLOURS / 255, 0),
    "webp": (picture_of(COLOURS, "scan.webp", lossless=True), COLOURS / 255, 0),
    "gif": (picture_of(Image.fromarray(COLOURS).quantize(4), "scan.gif"), COLOURS / 255, 0.01),
    "palette": (picture_of(Image.fromarray(COLOURS).quantize(4)), COLOURS / 255, 0.01),
    "jpeg": (picture_of(COLOURS, "scan.jpeg", quality=100, subsampling=0), COLOURS / 255, 0.05),
    "cmyk": (picture_of(Image.fromarray(COLOURS).convert("CMYK"), "scan.jpg", quality=100), COLOURS / 255, 0.05),
    "rgba": (picture_of(OPAQUE), COLOURS / 255, 0),
    "png 16": (bytes_of(DEEP), DEEP / 65535, 0),
    "tif 16": (bytes_of(DEEP, "scan.tif"), DEEP / 65535, 0),
    "tif 32": (bytes_of(COLOURS.astype(np.float32), "scan.tif"), RANGED, 1e-5),
    "npy": (bytes_of(COLOURS, "scan.npy"), RANGED, 1e-5),
    "npy first": (bytes_of(COLOURS.transpose(2, 0, 1), "scan.npy"), RANGED, 1e-5),
}


@pytest.mark.parametrize("kind", IN_COLOUR)
def test_colour_stays_colour(kind, tmp_path):
    write, expected, tolerance = IN_COLOUR[kind]
    write(tmp_path / "x" / "a")
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert ("note: 1 image with a constant alpha channel" in done.stdout) == (kind == "rgba")
    case = read(tmp_path / "out")[0]["a"]
    assert case.colour and case.image.shape == (3, 48, 64)
    np.testing.assert_allclose(case.image.numpy(), expected.transpose(2, 0, 1), atol=tolerance + 1e-7)
    np.testing.assert_array_equal(case.raters[0].numpy() > 0, DISC)


def test_colour_of_one_luminance_is_grey_only_by_the_flag(tmp_path):
    put(tmp_path / "x" / "a", COLOURS)
    put(tmp_path / "x" / "b", GREY)
    done = convert("folders", tmp_path / "x", tmp_path / "out", "--grey=True", "--seed=1")
    assert "note: 1 image in colour, converted to grey (--grey)" in done.stdout and done.returncode == 0
    cases, _ = read(tmp_path / "out")
    luminance = np.asarray(Image.fromarray(COLOURS).convert("L"))
    assert cases["a"].image.shape == (1, 48, 64)
    np.testing.assert_allclose(cases["a"].image[0].numpy(), luminance / 255, atol=1e-7)
    np.testing.assert_allclose(cases["b"].image[0].numpy(), GREY / 255, atol=1e-7)


def test_equal_planes_are_kept_and_read_as_grey(tmp_path):
    put(tmp_path / "x" / "a", np.repeat(GREY[..., None], 3, axis=2))
    assert convert("folders", tmp_path / "x", tmp_path / "out").returncode == 0
    with Image.open(next((tmp_path / "out").rglob("image_a.png"))) as picture:
        assert picture.mode == "RGB"
    case = read(tmp_path / "out")[0]["a"]
    assert not case.colour and case.image.shape == (1, 48, 64)


def test_an_image_that_is_transparent_in_places_is_a_fault_of_its_case(tmp_path):
    put(tmp_path / "x" / "a", np.dstack([COLOURS, GREY]))
    put(tmp_path / "x" / "b", COLOURS)
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 1 and "a/scan.png: the alpha channel varies" in done.stdout
    assert list(read(tmp_path / "out")[0]) == ["b"]


def test_colour_with_16_bits_needs_a_package(tmp_path, monkeypatch):
    bytes_of(COLOURS.astype(np.float32), "scan.npy")(tmp_path / "x" / "a")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert_refused(
        convert("folders", tmp_path / "x", tmp_path / "out"), "a: 16-bit colour needs imagecodecs", "medical"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("top, faint", [(2**12, True), (2**16, False)])
def test_16_bits_are_kept_and_reported_where_most_are_unused(tmp_path, top, faint):
    values = (GREY * (top / 256)).astype(np.uint16) + 3
    put(tmp_path / "x" / "a", values)
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    low, high = values.min(), values.max()
    assert ("warning: 1 image using less than a tenth of the scale" in done.stdout) == faint
    assert (f"{low} to {high} of 65535 in {tmp_path}/x/a/scan.png" in done.stdout) == faint
    np.testing.assert_array_equal(np.asarray(Image.open(next((tmp_path / "out").rglob("image_a.png")))), values)


@pytest.mark.parametrize("bits, scale", [(2, 3), (4, 15)])
def test_images_of_few_bits_keep_their_brightness(tmp_path, bits, scale):
    values = np.where(DISC, scale, 1).astype(np.uint8)
    put(tmp_path / "x" / "a", GREY)
    packed = values.reshape(48, -1, 8 // bits).astype(int) << np.arange(8 - bits, -1, -bits)
    (tmp_path / "x" / "a" / "scan.png").write_bytes(png(bits, packed.sum(-1).astype(np.uint8)))
    assert convert("folders", tmp_path / "x", tmp_path / "out").returncode == 0
    case = read(tmp_path / "out")[0]["a"]
    np.testing.assert_allclose(case.image[0].numpy(), values / scale, atol=1e-6)


def png(bits, rows):
    """A grey PNG of few bits, from the bytes of its rows."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", rows.shape[1] * 8 // bits, len(rows), bits, 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def test_pictures_are_turned_by_their_orientation(tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6
    put(tmp_path / "x" / "a", np.rot90(GREY).copy(), "scan.jpg", quality=100, exif=tag)
    assert convert("folders", tmp_path / "x", tmp_path / "out").returncode == 0
    case = read(tmp_path / "out")[0]["a"]
    np.testing.assert_allclose(case.image[0].numpy(), GREY / 255, atol=0.05)


# -- crops ------------------------------------------------------------------------------------------------------------


def crops(folder, masks):
    for k, name in enumerate(masks):
        put(folder / "train" / "gt" / "p1", np.roll(DISC, k, 1), name, mask=None)
    put(folder / "train" / "images" / "p1", COLOURS, "z-3.5_c0.png", mask=None)


def test_crops_keep_colour_and_no_mask_is_passed_over(tmp_path):
    crops(tmp_path / "x", ["z-3.5_c0_l0.png", "z-3.5_c0_l1.tif", "z-3.5_c0_L10.PNG"])
    done = convert("lidc-crops", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    case = read(tmp_path / "out")[0]["p1_z-3.5_c0"]
    np.testing.assert_allclose(case.image.numpy(), COLOURS.transpose(2, 0, 1) / 255, atol=1e-7)
    np.testing.assert_array_equal(case.raters.numpy() > 0, [np.roll(DISC, k, 1) for k in range(3)])


def test_two_masks_of_one_reader_are_refused(tmp_path):
    crops(tmp_path / "x", ["z-3.5_c0_l0.png", "z-3.5_c0_l0.tif"])
    assert_refused(
        convert("lidc-crops", tmp_path / "x", tmp_path / "out"),
        "z-3.5_c0_l0.tif: z-3.5_c0_l0.png is by the same reader",
    )


# -- pages ------------------------------------------------------------------------------------------------------------


def put_pages(path, arrays, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(array) for array in arrays]
    first.save(path, save_all=True, append_images=others, **how)


def test_each_page_is_a_case_of_one_patient(tmp_path):
    images = [np.roll(COLOURS, k, axis=1) for k in range(12)]
    masks = [[np.roll(DISC, k, axis=j) & (k != 3) for k in range(12)] for j in range(2)]
    for patient in ("p", "q", "r"):
        put_pages(tmp_path / "x" / patient / "scan.tif", images)
        for j in range(2):
            put_pages(tmp_path / "x" / patient / f"mask{j}.tif", masks[j])
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 0 and "36 cases of 3 patients" in done.stdout, done.stderr
    cases, rows = read(tmp_path / "out")
    for k in range(12):
        case, row = cases[f"p_z{k:03d}"], rows[f"p_z{k:03d}"]
        assert (row["patient"], row["slice"]) == ("p", str(k))
        np.testing.assert_allclose(case.image.numpy(), images[k].transpose(2, 0, 1) / 255, atol=1e-7)
        np.testing.assert_array_equal(case.raters.numpy() > 0, [masks[0][k], masks[1][k]])


@pytest.mark.parametrize("num_masks", [1, 4, 6])
def test_other_numbers_of_pages_are_a_fault_that_names_both(tmp_path, num_masks):
    put(tmp_path / "x" / "sound", GREY)
    put_pages(tmp_path / "x" / "a" / "scan.tif", [GREY] * 5)
    put_pages(tmp_path / "x" / "a" / "mask0.tif", [DISC] * 5)
    put_pages(tmp_path / "x" / "a" / "mask1.tif", [DISC] * num_masks)
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    pages = f"{num_masks} page{'' if num_masks == 1 else 's'}"
    assert done.returncode == 1 and f"a/mask1.tif: has {pages}, but scan.tif has 5" in done.stdout
    assert list(read(tmp_path / "out")[0]) == ["sound"]


def test_a_page_that_is_broken_does_not_stop_the_others(tmp_path):
    grey = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)  # a soft mask, if it were one
    put_pages(tmp_path / "x" / "a" / "scan.tif", [GREY] * 4)
    put_pages(tmp_path / "x" / "a" / "mask0.tif", [DISC, grey, np.roll(DISC, 1, 1), ~DISC])
    done = convert("folders", tmp_path / "x", tmp_path / "out")
    assert done.returncode == 1 and "fault: " in done.stdout and "mask0.tif, page 2: 256 levels" in done.stdout
    assert sorted(read(tmp_path / "out")[0]) == ["a_z000", "a_z002", "a_z003"]


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plane, words",
    [(GREY.astype(np.int16), "type int16"), (GREY / 100, "floats from 0.5 to 2"), (GREY * np.nan, "floats from nan")],
)
def test_arrays_that_would_be_clipped_are_refused(tmp_path, plane, words):
    with pytest.raises(DataError, match=f"x: a: .*{words}"):
        CaseFolder(tmp_path / "out", "x").write(RawCase("a", {"": plane}, [DISC], "a"), "training")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(DataError, match="mask 0 is not an array of bool"):
        CaseFolder(tmp_path / "out", "x").write(RawCase("a", {"": GREY}, [GREY], "a"), "training")


def test_converters_may_yield_arrays_in_colour(tmp_path, monkeypatch):
    planes = COLOURS.transpose(2, 0, 1)
    monkeypatch.setitem(FORMATS, "own", lambda config: [RawCase("a", {"t1": planes, "t2": planes / 255}, [DISC], "a")])
    for grey, count in ((False, 6), (True, 2)):
        out = tmp_path / str(grey)
        convert_source("own", ConvertConfig(src=str(tmp_path), out=str(out), grey=grey))
        case = read(out)[0]["a"]
        assert len(case.image) == count
        if not grey:
            np.testing.assert_allclose(case.image.numpy(), np.concatenate([planes, planes]) / 255, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_tiff_of_32_bits_is_scaled_by_its_own_range(tmp_path, dtype):
    values = np.arange(64).reshape(8, 8).astype(dtype) * 3000 - 90_000
    (tmp_path / "x" / "a").mkdir(parents=True)
    Image.fromarray(values).save(tmp_path / "x" / "a" / "scan.tif")
    Image.fromarray((values > 0).astype(dtype)).save(tmp_path / "x" / "a" / "mask.tif")
    assert convert("folders", tmp_path / "x", tmp_path / "out").returncode == 0
    case = read(tmp_path / "out")[0]["a"]
    np.testing.assert_allclose(case.image[0].numpy(), np.arange(64).reshape(8, 8) / 63, atol=1e-5)
    np.testing.assert_array_equal(case.raters[0].numpy() > 0, values > 0)
    if dtype == np.float32:
        values[0, 0] = np.nan
        Image.fromarray(values).save(tmp_path / "x" / "a" / "scan.tif")
        assert_refused(
            convert("folders", tmp_path / "x", tmp_path / "not"), "scan.tif: contains values that are not finite"
        )


def test_jpeg_masks_of_folders_are_cut_at_half_of_full_scale(tmp_path):
    (tmp_path / "x" / "bone7").mkdir(parents=True)
    mask = np.kron(np.random.default_rng(0).random((6, 6)) > 0.5, np.ones((8, 8), bool))
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "x" / "bone7" / "bone_label2.jpg", quality=60)
    Image.fromarray(np.full((48, 48), 90, np.uint8)).save(tmp_path / "x" / "bone7" / "bone.jpg")
    assert convert("folders", tmp_path / "x", tmp_path / "out").returncode == 0
    case = read(tmp_path / "out")[0]["bone7"]
    assert (case.raters[0].numpy() > 0).tolist() == mask.tolist()
