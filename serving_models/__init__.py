"""PaddleClas weights and inference models -> serving models."""

import os

# Read once, when Paddle's library loads: 3 keeps glog's information, warnings and errors off the terminal.
os.environ.setdefault("GLOG_minloglevel", "3")
