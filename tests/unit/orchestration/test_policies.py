"""Chunk lengths, odd replicas and root causes."""

import pickle

import pytest
from control_scripts import report

from distmc.errors import StartError
from distmc.orchestration import policies
from distmc.orchestration.messages import Failure, FailureKind
from distmc.orchestration.states import State

# As raised by jaxlib 0.10.2 when a peer is killed during an all-reduce.
GLOO = (
    "UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/transport/tcp/pair.cc:547] "
    "Connection closed by peer [127.0.0.1]:40123"
)


@pytest.mark.parametrize(
    ("current", "num_steps", "seconds", "expected"),
    [
        (1, 1, 0.001, 2),
        (100, 100, 1.0, 100),
        (100, 100, 4.0, 25),
        (64, 7, 0.007, 128),
        (800, 800, 0.1, 1000),
        (1, 1, 30.0, 1),
    ],
    ids=["doubles", "stays", "shrinks at once", "cut short by a phase", "has a ceiling", "has a floor"],
)
def test_chunk_length(current: int, num_steps: int, seconds: float, expected: int) -> None:
    reports = [report(1, 1, num_steps=num_steps, seconds=seconds)]
    assert policies.next_chunk_length(current, reports) == expected


@pytest.mark.parametrize(
    ("commit_seconds", "expected"),
    [(0.005, 100), (0.0075, 150), (0.1, 200)],
    ids=["a second", "two hundred times the writing", "has a ceiling"],
)
def test_chunks_are_longer_where_writing_takes_long(commit_seconds: float, expected: int) -> None:
    reports = [report(1, 1, num_steps=100, seconds=1.0)]
    assert policies.next_chunk_length(100, reports, commit_seconds) == expected


def test_slowest_worker_decides_the_chunk_length() -> None:
    reports = [report(1, 1, rank, num_steps=10, seconds=seconds) for rank, seconds in enumerate([0.1, 2.0])]
    assert policies.next_chunk_length(10, reports) == 5


@pytest.mark.parametrize(
    ("digests", "odd"),
    [("aaaa", ()), ("abaa", (1,)), ("aabb", (0, 1, 2, 3)), ("ab", (0, 1)), ("aabca", (2, 3)), ("a", ())],
)
def test_odd_ranks(digests: str, odd: tuple[int, ...]) -> None:
    assert policies.odd_ranks(dict(enumerate(digests))) == odd


@pytest.mark.parametrize(
    ("error", "uses_collectives", "kind"),
    [
        (ValueError(GLOO), True, FailureKind.COLLECTIVE),
        (ValueError(GLOO), False, FailureKind.APPLICATION),
        (ValueError("INTERNAL: words that nobody has listed"), True, FailureKind.COLLECTIVE),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes"), True, FailureKind.APPLICATION),
        (ValueError("shapes (3,) and (4,) do not fit"), True, FailureKind.APPLICATION),
        (StartError("no finite start"), True, FailureKind.INPUT),
        (policies.LostPeer("waited in vain"), True, FailureKind.COLLECTIVE),
    ],
)
def test_kind_of_an_exception(error: Exception, uses_collectives: bool, kind: FailureKind) -> None:
    assert policies.describe_exception(error, 0, uses_collectives=uses_collectives).kind is kind


def test_who_waits_for_a_program_gives_up_before_it_seems_to_hang() -> None:
    limit = policies.patience(State.COMPILING, 10.0)
    assert policies.handover_patience(10.0) < limit - 1.0


def test_exception_is_described_with_its_traceback() -> None:
    def inner() -> None:
        raise ValueError("first line\nsecond line")

    with pytest.raises(ValueError, match="first") as caught:
        inner()
    failure = policies.describe_exception(caught.value, 2, uses_collectives=False)
    assert failure.summary == "ValueError: first line"
    assert "in inner" in failure.traceback
    assert failure.rank == 2


def test_exception_without_words_is_described_by_its_class() -> None:
    assert policies.describe_exception(AssertionError(), 0, uses_collectives=False).summary == "AssertionError"


def test_portable_failures_pickle() -> None:
    class Local(Exception):
        """Cannot be pickled, as it has no name to be found by."""

    for error in (Local("words"), StartError("words")):
        failure = policies.portable(policies.describe_exception(error, 0, uses_collectives=False))
        copy = pickle.loads(pickle.dumps(failure))
        assert copy.summary == failure.summary
        assert type(copy.error) is (StartError if isinstance(error, StartError) else type(None))


def test_root_cause_prefers_what_explains_the_rest_and_then_the_first() -> None:
    kinds = [FailureKind.COLLECTIVE, FailureKind.SILENT, FailureKind.DEAD, FailureKind.DEAD]
    failures = [Failure(rank=rank, kind=kind, summary="") for rank, kind in enumerate(kinds)]
    assert policies.root_cause(failures).rank == 2
    failures.append(Failure(rank=4, kind=FailureKind.APPLICATION, summary=""))
    assert policies.root_cause(failures).rank == 4
