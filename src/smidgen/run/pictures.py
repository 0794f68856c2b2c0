"""Pictures: from files of any common kind to the arrays a network takes, and from folders to files and classes."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeVar

from smidgen.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from smidgen.archive import Label, Preprocessing

__all__ = [
    "PIXEL_LIMIT",
    "SUFFIXES",
    "find_labelled",
    "find_pictures",
    "open_image",
    "open_picture",
    "picture_size",
    "prepare",
    "resized",
]

PIXEL_LIMIT = 100_000_000
"""A picture with more pixels is refused before it is decoded: a few bytes can claim any size."""

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""File endings, in lower case, that are taken as pictures in a folder."""

# Only the decoders that SUFFIXES need: Pillow has others that start foreign programs (EPS: Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

_EXIF_ORIENTATION = 0x0112
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_SIDEWAYS = (5, 6, 7, 8)

Taken = TypeVar("Taken")


def open_image(source: str | os.PathLike[str] | bytes, most: int = PIXEL_LIMIT) -> Image.Image:
    """Read a picture as people see it: upright, in RGB, the first frame, what is transparent on white.

    Args:
        source: a JPEG, PNG, BMP, GIF, TIFF or WebP file, by its path or its bytes; the content decides, not the ending.
        most: pixels that it may have.

    Returns:
        A Pillow image of mode RGB; 16-bit grey is scaled, not cut.

    Raises:
        InputError: missing, not a picture, truncated, damaged, more pixels than may be, or in a form
            whose white is unknown (floats, 32-bit integers).

    Source:
        Orientation: EXIF 2.32 (CIPA DC-008), tag 0x0112.

    Example:
        >>> open_image("nowhere.jpg")
        Traceback (most recent call last):
        smidgen.errors.InputError: nowhere.jpg: no such file
    """

    def pixels(image: Image.Image) -> Image.Image:
        image.load()
        return _rgb(image)

    return _from_file(source, pixels, most)


def open_picture(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """What ``open_image`` gives, which also says what is raised, as uint8 of shape (height, width, 3), 0..255."""
    import numpy as np

    return np.array(open_image(path))


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of what ``open_picture`` gives; the pixels of a JPEG are not decoded for that.

    Raises:
        InputError: as ``open_picture`` does, but for what only decoding would show.

    Example:
        >>> picture_size("nowhere.jpg")
        Traceback (most recent call last):
        smidgen.errors.InputError: nowhere.jpg: no such file
    """

    def size(image: Image.Image) -> tuple[int, int]:
        if image.format != "JPEG":  # others tell their orientation late, or turn while they are decoded
            image.load()
        return (image.width, image.height) if _orientation(image) in _SIDEWAYS else (image.height, image.width)

    return _from_file(path, size)


def _from_file(
    source: str | os.PathLike[str] | bytes, take: Callable[[Image.Image], Taken], most: int = PIXEL_LIMIT
) -> Taken:
    from PIL import Image, UnidentifiedImageError

    name = "the picture" if isinstance(source, bytes) else os.fspath(source)
    if not isinstance(source, bytes) and os.path.isdir(source):
        raise InputError(f"{name}: is a folder, not a picture")
    try:
        # Pillow warns of large pictures (the limit here is checked below) and of oddities that do no harm
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _stream(source) as stream, _opened(stream) as image:
                _check_size(*image.size, name, most)
                if image.format == "TIFF":  # whose decoder takes memory for whole tiles
                    tags: Any = getattr(image, "tag_v2", {})
                    _check_size(tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1), f"{name}: tiles of", most)
                return take(image)
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except PermissionError:
        raise InputError(f"{name}: may not be read; check its permissions") from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not a picture (read are {', '.join(_FORMATS)})") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: more than {most:,} pixels; make it smaller first") from None
    except Exception as error:  # on hostile bytes the decoders raise nearly anything
        raise InputError(f"{name}: truncated or damaged picture ({_one_line(error)})") from None


def _stream(source: str | os.PathLike[str] | bytes) -> BinaryIO:
    return BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _opened(stream: BinaryIO) -> Image.Image:
    """The picture, by its first bytes; where they say which format it is, Pillow need not load the others."""
    from PIL import Image, UnidentifiedImageError

    start = stream.read(8)
    stream.seek(0)
    if start.startswith(b"\xff\xd8\xff"):
        from PIL.JpegImagePlugin import JpegImageFile

        try:
            return JpegImageFile(stream)
        except SyntaxError:
            raise UnidentifiedImageError from None

    return Image.open(stream, formats=("PNG",) if start == b"\x89PNG\r\n\x1a\n" else _FORMATS)


def prepare(picture: NDArray[np.uint8] | Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Turn a picture into the input of a network.

    Args:
        picture: uint8 of shape (h, w, 3) in RGB, 0..255, or a Pillow image of any mode.
        preprocessing: size, order of channels, mean and std.

    Returns:
        float32 of shape (3, height, width): ``(v - mean) / std`` of each channel.

    Raises:
        InputError: another shape or type of array, or a preprocessing that makes no sense.

    Example:
        >>> import numpy as np
        >>> from smidgen.archive import Preprocessing
        >>> grey = np.full((4, 6, 3), 128, np.uint8)
        >>> prepare(grey, Preprocessing(2, 2, mean=(128, 0, 0), std=(1, 2, 4))).tolist()
        [[[0.0, 0.0], [0.0, 0.0]], [[64.0, 64.0], [64.0, 64.0]], [[32.0, 32.0], [32.0, 32.0]]]
    """
    import numpy as np
    from PIL import Image

    _check_preprocessing(preprocessing)
    if isinstance(picture, Image.Image):
        image = _rgb(picture)
    elif picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.size:
        image = Image.fromarray(picture)
    else:
        raise InputError(f"a picture is uint8 of shape (height, width, 3), not {picture.dtype} {picture.shape}")
    small = resized(image, preprocessing.height, preprocessing.width, preprocessing.resample)
    pixels = np.asarray(small, np.float32)
    if preprocessing.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    scaled = (pixels - np.array(preprocessing.mean, np.float32)) / np.array(preprocessing.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def resized(image: Image.Image, height: int, width: int, resample: str) -> Image.Image:
    """A Pillow image of another size, without keeping the aspect; "bilinear" or "bicubic"."""
    from PIL import Image

    how = Image.Resampling[resample.upper()]
    return image.resize((width, height), how)


def find_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """All pictures in a folder and its sub-folders, sorted, without those that are hidden or lie in hidden folders.

    Links to folders are followed; a folder that is reached twice counts once.

    Raises:
        InputError: the folder is missing, cannot be read, or holds no picture (by its ending, see ``SUFFIXES``).

    Example:
        >>> find_pictures("nowhere")
        Traceback (most recent call last):
        smidgen.errors.InputError: nowhere: no such folder
    """
    folder = _folder(folder)
    found = _walk(folder)
    if not found:
        raise InputError(f"{folder}: no pictures in it (looked for {' '.join(SUFFIXES)})")
    return found


def find_labelled(folder: str | os.PathLike[str], labels: tuple[Label, ...]) -> list[tuple[Path, int]] | None:
    """The pictures of a folder with class sub-folders, each with the index of its class.

    A sub-folder is a class if its name is the id of one, its name, or one of the names between commas; case, spaces
    and underscores do not matter, and an id goes before a name. Not every class needs a folder.

    Args:
        folder: ``folder/<class>/**/picture``.
        labels: the classes in the order of the scores.

    Returns:
        (path, index into ``labels``) sorted by path, or None if the folder has no sub-folders: it is not labelled.

    Raises:
        InputError: the folder is missing or empty, a sub-folder matches no class or several, or a picture lies
            beside the sub-folders and so has no class.

    Example:
        >>> from smidgen.archive import Label
        >>> find_labelled("nowhere", (Label("n01440764", "tench, Tinca tinca"),))
        Traceback (most recent call last):
        smidgen.errors.InputError: nowhere: no such folder
    """
    folder = _folder(folder)
    entries = sorted(entry for entry in _entries(folder) if not entry.name.startswith("."))
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes:
        return None
    if not labels:
        raise InputError(
            f"{folder}: has sub-folders, but the network carries no class labels to match them with; give the module "
            "an attribute `labels`, or put all pictures into one folder"
        )
    names = _names(labels)
    indices = {sub: _match(sub, labels, names) for sub in classes}
    stray = next((entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry not in indices), None)
    if stray is not None:
        raise InputError(f"{stray}: lies beside class folders and so has no class; move it into one, or away")
    found = [(path, index) for sub, index in indices.items() for path in _walk(sub)]
    if not found:
        raise InputError(f"{folder}: no pictures in its class folders (looked for {' '.join(SUFFIXES)})")
    return found


def _check_size(width: int, height: int, what: str, most: int = PIXEL_LIMIT) -> None:
    if width < 1 or height < 1 or width * height > most:
        raise InputError(f"{what}: {width} x {height} pixels; needed are 1 to {most:,} in all")


def _check_preprocessing(preprocessing: Preprocessing) -> None:
    import numpy as np

    _check_size(preprocessing.width, preprocessing.height, "preprocessing")
    if preprocessing.channels not in ("RGB", "BGR"):
        raise InputError(f'preprocessing: channels are "RGB" or "BGR", not {preprocessing.channels!r}')
    if preprocessing.resample not in ("bilinear", "bicubic"):
        raise InputError(f'preprocessing: resample is "bilinear" or "bicubic", not {preprocessing.resample!r}')
    numbers = np.array((preprocessing.mean, preprocessing.std), np.float64)
    if numbers.shape != (2, 3) or not np.isfinite(numbers).all() or not numbers[1].all():
        raise InputError("preprocessing: mean and std are three finite numbers each, and std is never zero")


def _rgb(image: Image.Image) -> Image.Image:
    """Upright, three channels of 8 bits, what is transparent on white; nothing is left that would turn it again."""
    found = _three_channels(_upright(image))
    found.info = {}
    return found


def _three_channels(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey16(image)).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    turns = Image.Transpose
    turn = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }
    orientation = _orientation(image)
    return image.transpose(turn[orientation]) if orientation in turn else image


def _orientation(image: Image.Image) -> int | None:
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return None  # Pillow would load its decoder of TIFF to find that out
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # a damaged EXIF block says nothing about the pixels, which are read all the same
        return None


def _grey16(image: Image.Image) -> NDArray[np.uint8]:
    """16-bit grey as 8 bits. Older releases of Pillow open it as 32 bits, whose white would otherwise be unknown."""
    import numpy as np

    grey = np.asarray(image)
    if grey.dtype.kind == "f" or int(grey.min()) < 0 or int(grey.max()) > 0xFFFF:
        raise InputError("grey of 32 bits, whose white is unknown; save it with 8 or 16 bits")
    return np.round(grey.astype(np.float32) / 257).astype(np.uint8)


def _folder(folder: str | os.PathLike[str]) -> Path:
    from pathlib import Path

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    return folder


def _unreadable(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        _unreadable(error)


def _walk(folder: Path) -> list[Path]:
    from pathlib import Path

    found: list[Path] = []
    seen = {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
        fresh = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(root, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                fresh.append(name)
        folders[:] = fresh
        found += [
            Path(root, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return sorted(found)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _names(labels: tuple[Label, ...]) -> tuple[Mapping[str, set[int]], Mapping[str, set[int]]]:
    """Which classes go by an id, and which by a name."""
    ids, names = defaultdict(set), defaultdict(set)
    for index, label in enumerate(labels):
        ids[_plain(label.id)].add(index)
        for name in (label.name, *label.name.split(",")):
            names[_plain(name)].add(index)
    return ids, names


def _match(sub: Path, labels: tuple[Label, ...], names: tuple[Mapping[str, set[int]], Mapping[str, set[int]]]) -> int:
    plain = _plain(sub.name)
    found = names[0].get(plain) or names[1].get(plain) or set()
    if len(found) == 1:
        return next(iter(found))
    if found:
        ids = ", ".join(labels[index].id for index in sorted(found))
        raise InputError(f"{sub}: the name {sub.name!r} fits {len(found)} classes ({ids}); name the folder by the id")
    inner = [entry for entry in _entries(sub) if entry.is_dir() and not entry.name.startswith(".")]
    if any(_plain(entry.name) in table for entry in inner for table in names):
        raise InputError(f"{sub}: is no class of this network, but holds folders that are; give {sub} instead")
    example = " or ".join(dict.fromkeys((labels[0].id, labels[0].name)))
    raise InputError(f"{sub}: no class of this network has this id or name (one is called {example})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
