"""The benchmark of the hidden Markov likelihood runs, agrees with the plain recursion, and says on what it ran."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "hmm_gradient.py"


def test_small_run(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--ways", "distmc", "log_space", "--results", str(tmp_path)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(SCRIPT.parents[1])}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "hmm_gradient.json").read_text())
    assert set(result["median_seconds"]) == {"distmc", "log_space"}
    assert 0 < result["largest_relative_difference_to_first"]["log_space"] < 1e-4
    assert result["machine"]["versions"]["jax"]
