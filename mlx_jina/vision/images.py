"""Pictures decoded to RGB: files, bytes, Pillow's images and arrays. All but arrays need `mlx-jina[images]`."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_jina.errors import InputError, PictureError
from mlx_jina.vision.resize import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# Pixels of a picture, at most; Pillow itself warns beyond these.
MOST_PIXELS = 89_478_485
# Catching warnings holds for the whole process.
_opening = threading.Lock()
# 16 bits a pixel, of which Pillow would keep those of values below 256 and make the others white.
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Image:
    """A picture among texts: `model.encode(["a text", Image("page.png")])`.

    `source` is a path, the bytes of a file, an image of Pillow's, or an array (height, width, 3) of uint8.
    """

    source: str | Path | bytes | npt.NDArray[Any] | PillowImage


AnyPicture: TypeAlias = "str | Path | bytes | npt.NDArray[Any] | PillowImage | Image"
"""What can be a picture."""
AnyPictures: TypeAlias = "AnyPicture | Iterable[AnyPicture]"


def is_picture(item: object) -> bool:
    """Whether this is an `Image`, or one of Pillow's."""
    return isinstance(item, Image) or type(item).__module__.startswith("PIL.")


def listed(pictures: object) -> list[object]:
    """One picture or many as a list. Raises InputError for what is neither."""
    if is_one(pictures):
        return [pictures]
    if not isinstance(pictures, Iterable) or isinstance(pictures, Mapping):
        raise InputError(f"images must be a picture or a list of them, not {type(pictures).__name__}")
    return list(pictures)


def is_one(pictures: object) -> bool:
    """Whether this is one picture, and not many."""
    if isinstance(pictures, np.ndarray):
        # Also grey ones and floats, which are refused as the pictures that they are.
        return pictures.ndim == 3 or (pictures.ndim == 2 and pictures.dtype.kind in "buif")
    return isinstance(pictures, (str, Path, bytes, bytearray, memoryview, io.IOBase)) or is_picture(pictures)


def decode(item: object, position: int | None = None) -> Pixels:
    """A picture as RGB, (h, w, 3). Raises PictureError, which names the picture's `position`.

    As in v4's own code, colours are converted and transparency is dropped, an animation is its first frame, and
    no EXIF tag turns the picture.
    """
    source = item.source if isinstance(item, Image) else item
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            found = f"{source.dtype} {source.shape}"
            raise PictureError(f"is an array {found}; a picture is uint8 (height, width, 3)", position=position)
        _check_size(source.shape[1], source.shape[0], position)
        return source
    try:
        import PIL.Image
    except ImportError:
        raise PictureError(
            "is a picture, which needs Pillow: pip install 'mlx-jina[images]'", position=position
        ) from None
    if isinstance(source, PIL.Image.Image):
        return _rgb(source, position)
    if isinstance(source, (bytearray, memoryview)):
        source = bytes(source)
    if not isinstance(source, (str, Path, bytes)):
        kind = type(source).__name__
        words = f"is {kind}; a picture is a path, bytes, an array or an image of Pillow's"
        if isinstance(source, io.IOBase):
            words = f"is an open file ({kind}): pass its path, or what its read() returns"
        raise PictureError(words, position=position)
    with _faults(position), _opened(source, position) as image:
        return _rgb(image, position)


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a picture, from the head of its file. Raises PictureError, mostly as `decode` would."""
    with _faults(None), _opened(data) as image:
        _check_size(*image.size, None)
        if image.mode in ("I", "F"):
            raise PictureError(_deep_words(image.mode))
        return image.size


def thumbnail(picture: bytes | Pixels, size: int) -> bytes:
    """A JPEG for people, of at most `size` pixels a side: upright, on white, without what a camera wrote into it.

    Raises PictureError.
    """
    import PIL.Image
    import PIL.ImageOps

    if not isinstance(picture, bytes):
        return _jpeg(PIL.Image.fromarray(picture), size)
    with _faults(None), _opened(picture) as image:
        _check_size(*image.size, None)
        if image.mode in (*_DEEP, "I", "F"):
            return _jpeg(PIL.Image.fromarray(decode(picture)), size)
        # Of a JPEG only as much is decoded as that takes.
        image.draft("RGB", (size, size))
        image.thumbnail((size, size))
        with _opening, warnings.catch_warnings():
            # Of what a camera wrote, some may be damaged.
            warnings.simplefilter("ignore")
            upright = PIL.ImageOps.exif_transpose(image)
        if upright.mode == "P" or "A" in upright.mode or "transparency" in upright.info:
            seen = upright.convert("RGBA")
            upright = PIL.Image.new("RGBA", seen.size, "white")
            upright.alpha_composite(seen)
        return _jpeg(upright, size)


def _jpeg(image: PillowImage, size: int) -> bytes:
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()


@contextmanager
def _opened(source: str | Path | bytes, position: int | None = None) -> Iterator[PillowImage]:
    import PIL.Image

    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source).expanduser()
    with _opening, warnings.catch_warnings():
        # Its size is checked, and answered by an error.
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        image = PIL.Image.open(file)
    with image:
        if image.format == "EPS":
            # Pillow would have Ghostscript run it.
            raise PictureError(
                "is a program in PostScript and no picture; convert it to PNG first", position=position
            )
        yield image


@contextmanager
def _faults(position: int | None) -> Iterator[None]:
    """Whatever Pillow raises for a file that it cannot read becomes a PictureError."""
    import PIL.Image

    try:
        yield
    except PictureError:
        raise
    except PIL.UnidentifiedImageError:
        raise PictureError(
            "is no picture of a kind that Pillow reads (PNG, JPEG, WebP, GIF, ...)", position=position
        ) from None
    except PIL.Image.DecompressionBombError as error:
        raise PictureError(f"has too many pixels: {error}", position=position) from None
    except Exception as error:
        # Each of its readers has errors of its own, as have the libraries below them: AVIF's raises RuntimeError.
        raise PictureError(
            f"cannot be read as a picture: {error or type(error).__name__}", position=position
        ) from None


def _check_size(width: int, height: int, position: int | None) -> None:
    if not width or not height:
        raise PictureError(f"has {width} x {height} pixels, which is nothing", position=position)
    if width * height > MOST_PIXELS:
        raise PictureError(
            f"has {width} x {height} pixels, more than {MOST_PIXELS}; make it smaller first", position=position
        )


def _rgb(image: PillowImage, position: int | None) -> Pixels:
    _check_size(*image.size, position)
    with _faults(position):
        if image.mode in _DEEP:
            # The high byte, which is what Pillow itself keeps of colours with 16 bits.
            grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.mode in ("I", "F"):
            raise PictureError(_deep_words(image.mode), position=position)
        if image.mode == "P" and "transparency" in image.info:
            # The colours are the same, and Pillow does not warn of what is dropped.
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def _deep_words(mode: str) -> str:
    return f"has numbers of 32 bits for pixels (mode {mode}); convert it to RGB first"
