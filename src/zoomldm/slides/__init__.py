"""Open any slide at an exact mpp and find its tissue."""

from zoomldm.slides.backend import SlideReadError
from zoomldm.slides.slide import Slide, open_slide

__all__ = ["Slide", "SlideReadError", "open_slide"]
