"""Programs that are called a few times."""

import pytest

from distmc.model import brief


def test_options_that_xla_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert brief._options() == brief._WANTED
    monkeypatch.setattr(brief, "_WANTED", {"xla_no_such_option": True})
    brief._options.cache_clear()
    try:
        assert brief._options() == {}
        assert brief.brief(lambda x: x + 1)(2) == 3
    finally:
        brief._options.cache_clear()
