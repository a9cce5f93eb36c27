"""Lets the test modules of this folder import `control_scripts`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
