"""Open any slide at an exact mpp, find its tissue, write pyramids."""

from zoomldm.slides.backend import SlideReadError
from zoomldm.slides.slide import Slide, open_slide

__all__ = ["Slide", "SlideReadError", "open_slide"]
