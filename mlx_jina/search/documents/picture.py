"""What can be known of a picture before it is decoded: its size and kind, from the head of its file."""

from __future__ import annotations

from mlx_jina.errors import PictureError
from mlx_jina.search.documents.base import UnreadableError
from mlx_jina.search.documents.kinds import MISSING_PICTURE_READER, has_picture_reader
from mlx_jina.vision import images, patches


def check(data: bytes) -> None:
    """Raise UnreadableError for what is no picture, or one that no model is shown. Pixels are not decoded."""
    if not has_picture_reader():
        raise UnreadableError(MISSING_PICTURE_READER)
    try:
        width, height = images.size_of(data)
        patches.check_ratio(height, width)
    except PictureError as error:
        raise UnreadableError(error.words) from None
