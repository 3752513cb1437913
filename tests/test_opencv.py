"""How OpenCV is set up, seen from a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import struct, zlib
import numpy as np
from service.ops.{module} import cv2

def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0))
bomb = b"\\x89PNG\\r\\n\\x1a\\n" + header + chunk(b"IDAT", zlib.compress(bytes(2501 * 20000))) + chunk(b"IEND", b"")
try:
    found = cv2.imdecode(np.frombuffer(bomb, np.uint8), cv2.IMREAD_COLOR)
except cv2.error:
    found = None
print(cv2.getNumThreads(), found is None)
"""


def test_opencv_has_one_thread_a_pixel_bound_of_its_own_and_prints_nothing():
    # 400 million pixels: beyond our bound, within OpenCV's own default of 2**30
    for module in ("decode", "preprocess"):
        command = [sys.executable, "-c", PROGRAM.format(module=module)]
        result = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, timeout=60, check=False)
        assert (result.stdout, result.stderr) == ("1 True\n", "")
