"""OpenCV as this service uses it: a pixel bound set before it loads, silent, and no threads of its own.

The one place that imports ``cv2``; every other module takes it from here. The process that decodes owns the threads,
one image each: OpenCV's own pool would only compete with them.
"""

from __future__ import annotations

import os

# The last line of defence behind decode.Limits, which refuses by the header; OpenCV reads it when it loads.
MAX_PIXELS = 2**28

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
# A broken image is the caller's and is answered; OpenCV would print a line on stderr for each.
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")

import cv2  # noqa: E402

cv2.setNumThreads(1)

__all__ = ["MAX_PIXELS", "cv2"]
