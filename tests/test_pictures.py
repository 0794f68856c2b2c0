from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smidgen.archive import Label, Preprocessing
from smidgen.errors import InputError
from smidgen.run.pictures import PIXEL_LIMIT, find_labelled, find_pictures, open_picture, picture_size, prepare

LABELS = (
    Label("n01440764", "tench, Tinca tinca"),
    Label("n02012849", "crane"),
    Label("n03126707", "crane, lifting crane"),
    Label("n01484850", "great white shark, white_shark"),
)


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    """Every corner has its own colour."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y // (height - 1), 255 * x // (width - 1), np.full_like(x, 90)], axis=2).astype(np.uint8)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def png(width: int, height: int) -> bytes:
    """The header of a PNG, which may claim any size, and next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_give_the_pixels(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(Image.fromarray(gradient()), tmp_path / f"a.{suffix}", **options)
    picture = open_picture(path)
    assert picture.dtype == np.uint8
    assert picture.flags.writeable
    np.testing.assert_array_equal(picture, gradient())
    np.testing.assert_array_equal(open_picture(str(path)), gradient())


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = gradient()
    # how a camera held in each way stores the same scene (EXIF 2.32, tag 0x0112)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    image = Image.fromarray(np.ascontiguousarray(stored))
    path = save(image, tmp_path / f"a.{suffix}", exif=exif, **options)
    picture = open_picture(path)
    assert picture.shape == upright.shape == (*picture_size(path), 3)
    np.testing.assert_allclose(picture, upright.astype(float), atol=6)


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    path = save(Image.fromarray(gradient()), tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\x01")
    np.testing.assert_array_equal(open_picture(path), gradient())


def test_grey_and_bilevel(tmp_path: Path) -> None:
    grey = gradient()[:, :, 0]
    picture = open_picture(save(Image.fromarray(grey), tmp_path / "grey.png"))
    np.testing.assert_array_equal(picture, np.repeat(grey[:, :, None], 3, axis=2))
    picture = open_picture(save(Image.fromarray(grey > 99), tmp_path / "bits.png"))
    np.testing.assert_array_equal(picture[:, :, 1], np.where(grey > 99, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    picture = open_picture(save(Image.fromarray(grey), tmp_path / f"a.{suffix}"))
    np.testing.assert_array_equal(picture[0, :, 0], [0, 0, 1, 128, 255])


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[-1]]), np.int32([[70000]])])
def test_grey_without_a_known_white(tmp_path: Path, values: np.ndarray) -> None:
    path = save(Image.fromarray(values), tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: grey of 32 bits"):
        open_picture(path)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    picture = open_picture(save(Image.fromarray(rgba), tmp_path / "a.png"))
    np.testing.assert_array_equal(picture[0], [[10, 20, 30], [255, 255, 255], [127, 127, 127]])
    grey = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8))
    assert grey.mode == "LA"
    np.testing.assert_array_equal(open_picture(save(grey, tmp_path / "la.png"))[0, :, 0], [9, 255])


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    expected = [[200, 0, 0], [255, 255, 255], [0, 0, 200]]
    np.testing.assert_array_equal(open_picture(save(image, tmp_path / "one.png", transparency=1))[0], expected)
    np.testing.assert_array_equal(open_picture(save(image, tmp_path / "one.gif", transparency=1))[0], expected)
    # one alpha for each colour, which Pillow warns of
    picture = open_picture(save(image, tmp_path / "all.png", transparency=bytes([255, 0, 255])))
    np.testing.assert_array_equal(picture[0], expected)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        options = {"lossless": True} if name == "a.webp" else {}
        path = save(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(open_picture(path), np.full((4, 5, 3), (255, 0, 0)))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    picture = open_picture(save(image, tmp_path / "a.jpg", quality=100))
    np.testing.assert_allclose(picture, np.broadcast_to([255.0, 0, 0], (16, 16, 3)), atol=3)


def test_content_decides_not_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(gradient()).save(path, format="PNG")
    np.testing.assert_array_equal(open_picture(path), gradient())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("text.jpg", b"this is no picture\n", "not a picture"),
        ("empty.png", b"", "not a picture"),
        ("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        ("bomb.png", png(60_000, 60_000), "pixels"),
        ("just_over.png", png(PIXEL_LIMIT // 10_000, 10_001), "pixels"),
        ("short.png", png(50, 50), "truncated or damaged"),
        ("no_pixels.png", png(0, 5), "no_pixels.png"),
    ],
)
def test_hostile_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        open_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_picture(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match="is a folder"):
        open_picture(tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated(tmp_path: Path, kind: str) -> None:
    data = io.BytesIO()
    Image.fromarray(gradient(60, 80)).save(data, kind)
    path = tmp_path / "short.jpg"
    path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    with pytest.raises(InputError, match=r"short\.jpg"):
        open_picture(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_raise_only_input_errors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    stream = io.BytesIO()
    Image.fromarray(gradient()).save(stream, data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])))
    damaged = bytearray(stream.getvalue())
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    try:
        picture = open_picture(path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  it may be refused or read; both are right
    else:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3


def test_prepare_order_mean_and_std() -> None:
    picture = np.empty((5, 7, 3), np.uint8)
    picture[:] = (10, 20, 30)
    rgb = prepare(picture, Preprocessing(3, 4, "RGB", (1, 2, 3), (2, 4, 8)))
    assert rgb.shape == (3, 3, 4)
    assert rgb.dtype == np.float32
    assert rgb.flags.c_contiguous
    np.testing.assert_allclose(rgb[:, 0, 0], [4.5, 4.5, 27 / 8])
    bgr = prepare(picture, Preprocessing(3, 4, "BGR", (1, 2, 3), (2, 4, 8)))
    np.testing.assert_allclose(bgr[:, 2, 3], [14.5, 4.5, 7 / 8])


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_prepare_resizes_without_keeping_the_aspect(resample: str) -> None:
    picture = gradient()
    expected = np.asarray(Image.fromarray(picture).resize((6, 9), Image.Resampling[resample.upper()]))
    values = prepare(picture, Preprocessing(9, 6, resample=resample))
    np.testing.assert_array_equal(values, expected.transpose(2, 0, 1))


def test_prepare_takes_pillow_images() -> None:
    preprocessing = Preprocessing(20, 30)
    image = Image.fromarray(gradient())
    np.testing.assert_array_equal(prepare(image, preprocessing), prepare(gradient(), preprocessing))
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    assert (prepare(clear, Preprocessing(2, 2)) == 255).all()


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")],
)
def test_prepare_refuses_other_arrays(picture: np.ndarray) -> None:
    with pytest.raises(InputError, match="a picture is uint8"):
        prepare(picture, Preprocessing(2, 2))


@pytest.mark.parametrize(
    "fields",
    [
        {"channels": "GBR"},
        {"resample": "box"},
        {"std": (1.0, 0.0, 1.0)},
        {"mean": (1.0, float("nan"), 1.0)},
        {"mean": (1.0, 2.0)},
        {"height": 0},
        {"height": 100_000, "width": 100_000},
    ],
)
def test_prepare_refuses_senseless_preprocessing(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="preprocessing"):
        prepare(gradient(), Preprocessing(**({"height": 2, "width": 2} | fields)))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_find_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/2.jpeg", "a/10.png", "c.TIF", "d.tiff", "e.webp", "f.gif", "g.bmp")
    touch(tmp_path, "notes.txt", ".hidden.jpg", ".cache/a.jpg", "a/._2.jpeg", "jpg")
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)]
    assert found == ["a/10.png", "a/2.jpeg", "b.JPG", "c.TIF", "d.tiff", "e.webp", "f.gif", "g.bmp"]


def test_find_pictures_follows_links_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "data/2.jpg")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "data")
    assert [path.name for path in find_pictures(tmp_path / "data")] == ["2.jpg", "1.jpg"]


def test_find_pictures_finds_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        find_pictures(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_pictures(tmp_path / "nowhere")
    touch(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="a file, not a folder"):
        find_pictures(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("n01440764", 0),
        ("N01440764", 0),
        ("tench", 0),
        ("Tinca_tinca", 0),
        ("tench, Tinca tinca", 0),
        ("lifting crane", 2),
        ("White Shark", 3),
        ("great_white_shark", 3),
    ],
)
def test_labelled_by_id_or_name(tmp_path: Path, name: str, index: int) -> None:
    touch(tmp_path, f"{name}/deep/b.png", f"{name}/a.jpg", ".git/x/a.jpg", "readme.txt")
    assert find_labelled(tmp_path, LABELS) == [
        (tmp_path / name / "a.jpg", index),
        (tmp_path / name / "deep/b.png", index),
    ]


def test_labelled_several(tmp_path: Path) -> None:
    touch(tmp_path, "tench/a.jpg", "n01440764/b.jpg", "n03126707/c.jpg")
    (tmp_path / "n02012849").mkdir()  # a class without pictures adds nothing
    found = find_labelled(tmp_path, LABELS)
    assert found is not None
    assert [(path.name, index) for path, index in found] == [("b.jpg", 0), ("c.jpg", 2), ("a.jpg", 0)]


def test_an_id_goes_before_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "crane/a.jpg")
    labels = (Label("crane", "crane"), Label("machine", "crane, lifting crane"))
    assert find_labelled(tmp_path, labels) == [(tmp_path / "crane/a.jpg", 0)]


def test_without_sub_folders_there_are_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", ".thumbnails/a.jpg")
    assert find_labelled(tmp_path, LABELS) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["tench/a.jpg", "trout/a.jpg"], r"trout: no class of this network .*n01440764"),
        (["crane/a.jpg"], r"crane: the name 'crane' fits 2 classes \(n02012849, n03126707\)"),
        (["tench/a.jpg", "b.jpg"], r"b\.jpg: lies beside class folders"),
        (["unpacked/tench/a.jpg", "unpacked/trout/a.jpg"], r"unpacked: .* give .*unpacked instead"),
        (["tench/notes.txt"], "no pictures in its class folders"),
    ],
)
def test_labelled_refuses(tmp_path: Path, files: list[str], message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        find_labelled(tmp_path, LABELS)


def test_labelled_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, "tench/a.jpg")
    with pytest.raises(InputError, match="carries no class labels"):
        find_labelled(tmp_path, ())
    with pytest.raises(InputError, match="no such folder"):
        find_labelled(tmp_path / "nowhere", LABELS)
