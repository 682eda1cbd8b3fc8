"""The original images behind some paths: to copy, to link to, to show; wherever they lie."""

import os
import shutil
from pathlib import Path

from PIL import Image

from likewise.draws import word
from likewise.errors import DataError
from likewise.files import write, write_bytes
from likewise.images.decode import MAX_PIXELS, Unusable, to_image
from likewise.images.scan import locate
from likewise.images.sources import Files, content_of

MANY = 100_000  # copies of one image, at most, that are told from others


class Originals:
    """The images of DATA by their paths, as embeddings and selections name them. Raises DataError if DATA is gone."""

    def __init__(self, data: str) -> None:
        self.data, self.listing = data, locate(data)
        self.place = {path: i for i, path in enumerate(self.listing.paths)}

    def copy(self, path: str, target: Path) -> None:
        """A file with the very bytes of the image; of pixels in memory a lossless PNG. It is there whole or not."""
        i = self._find(path)
        if not isinstance(self.listing, Files):
            write(target, lambda file: self.image(path).save(file, "PNG"))
        elif self.listing.files is not None:
            with open(self.listing.files[i], "rb") as original:
                write(target, lambda file: shutil.copyfileobj(original, file))
            shutil.copystat(self.listing.files[i], target)
        else:
            write_bytes(target, self.listing.read(i))

    def differs(self, path: str, key: int) -> bool:
        """Whether the image there now is another than that with this key. Copies of an image have keys of their own."""
        i, listing = self._find(path), self.listing
        try:
            if isinstance(listing, Files):
                content = content_of(listing.read(i))
            else:
                content = listing.load(i, None, MAX_PIXELS)[0]
        except (OSError, ValueError, Unusable) as error:
            raise DataError(f"{path}: cannot be read ({error})") from None
        return key != content and all(word(content, "copy", n) != key for n in range(1, min(len(self.place), MANY)))

    @property
    def suffix(self) -> str:
        """What a copy's name has beyond that of the image."""
        return "" if isinstance(self.listing, Files) else ".png"

    @property
    def linkable(self) -> bool:
        """Whether each image is a file of its own."""
        return isinstance(self.listing, Files) and self.listing.files is not None

    def link(self, path: str, target: Path) -> None:
        """A symbolic link to the file, where there is one."""
        assert isinstance(self.listing, Files)
        assert self.listing.files is not None
        os.symlink(self.listing.files[self._find(path)].resolve(), target)

    def image(self, path: str) -> Image.Image:
        """The picture itself."""
        try:
            return to_image(self.listing.load(self._find(path), None, MAX_PIXELS)[1].pixels)
        except Unusable as error:
            raise DataError(f"{path}: {error}") from None

    def _find(self, path: str) -> int:
        if path not in self.place:
            raise DataError(f"{self.data}: has no image {path}; it is not the data that was selected from")
        return self.place[path]
