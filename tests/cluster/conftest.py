"""Lets the test modules of this folder, and the processes they start, import `faulty`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
