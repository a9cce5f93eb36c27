import io
from pathlib import Path

import pytest
from rich.console import Console

from distmc import demo
from distmc.zoo.word_states import HiddenState
from distmc.zoo.words import PHONES


def test_next_free_name(tmp_path: Path) -> None:
    path = tmp_path / "words"
    assert demo.free_path(str(path)) == path
    path.mkdir()
    (tmp_path / "words-2").write_text("also taken")
    assert demo.free_path(str(path)) == tmp_path / "words-3"


@pytest.mark.parametrize(("encoding", "full"), [("utf-8", "█"), ("ascii", "#")])
@pytest.mark.parametrize("width", [30, 80, 200])
def test_picture_fits_the_terminal(encoding: str, full: str, width: int) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    state = HiddenState(number=1, share=0.385, phones=tuple((phone, 0.5) for phone in PHONES))
    heading, *lines = demo.picture(state, Console(file=output, width=width)).plain.splitlines()
    assert heading.startswith("State 1 speaks 38% of all sounds")
    assert max(map(len, lines)) <= width
    assert [word for line in lines for word in line.split() if word in PHONES] == list(PHONES)
    assert lines[0].count(full * 4 + " ") >= 1
    assert full * 5 not in "".join(lines)
