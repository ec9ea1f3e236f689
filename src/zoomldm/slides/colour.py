"""Conversion of colours to sRGB through the slide's ICC profile."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

_PROBE = np.stack(
    np.meshgrid(*[np.linspace(0, 255, 9).astype(np.uint8)] * 3, indexing="ij"), axis=-1
).reshape(27, 27, 3)


class Colour:
    """Transform of a slide's RGB to sRGB.

    Attributes:
        description: the profile's name.
    """

    def __init__(self, profile: bytes) -> None:
        """Build the transform once.

        Raises:
            ImageCms.PyCMSError, OSError: not a profile for RGB images.
        """
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        self.description = (
            " ".join(ImageCms.getProfileDescription(source).split()) or "unnamed profile"
        )
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
        target = ImageCms.createProfile("sRGB")
        self._transform = ImageCms.buildTransform(source, target, "RGB", "RGB", intent)
        probe = self._run(Image.fromarray(_PROBE))
        # A profile that is already sRGB need not cost time on every pixel.
        self.identity = int(np.abs(np.asarray(probe, np.int16) - _PROBE).max()) <= 1

    def _run(self, image: Image.Image) -> Image.Image:
        ImageCms.applyTransform(image, self._transform, inPlace=True)
        return image

    def apply(self, image: Image.Image) -> Image.Image:
        """Convert an RGB image to sRGB; the input may be modified."""
        return image if self.identity else self._run(image)


def slide_colour(path: Path, profile: bytes | None) -> Colour | None:
    """The transform for a slide's profile; None if there is none, or (with a warning) if broken."""
    if not profile:
        return None
    try:
        return Colour(profile)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        warnings.warn(f"{path}: its ICC profile is not usable ({error}); ignored", stacklevel=3)
        return None
