"""Programs that are called a few times."""

import pytest

from distmc.model import brief


def test_options_that_xla_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert brief.brief_options() == brief._WANTED
    monkeypatch.setattr(brief, "_WANTED", {"xla_no_such_option": True})
    brief.brief_options.cache_clear()
    try:
        assert brief.brief_options() == {}
        assert brief.brief(lambda x: x + 1)(2) == 3
    finally:
        brief.brief_options.cache_clear()
