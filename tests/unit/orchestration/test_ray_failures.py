"""What is made of the errors that Ray reports in place of an answer."""

import pytest

pytest.importorskip("ray")

from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

from distmc.orchestration.budget import FailureBudget
from distmc.orchestration.messages import FailureKind
from distmc.orchestration.ray import _ray_failure


def died(reason: str) -> ActorDiedError:
    """Return Ray's error for an actor whose node went for this reason."""
    info = NodeDeathInfo(reason=NodeDeathInfo.Reason.Value(reason))
    message = "The actor is dead.\nWorker exit detail: its node was terminated. Some common causes include: ..."
    return ActorDiedError(ActorDiedErrorContext(actor_id=b"0" * 16, error_message=message, node_death_info=info))


@pytest.mark.parametrize(
    ("reason", "is_preemption"),
    [("AUTOSCALER_DRAIN_PREEMPTED", True), ("AUTOSCALER_DRAIN_IDLE", False), ("UNEXPECTED_TERMINATION", False)],
)
def test_only_nodes_that_were_taken_away_on_purpose_do_not_count(reason: str, is_preemption: bool) -> None:
    failure = _ray_failure(2, died(reason))
    assert (failure.rank, failure.kind, failure.is_preemption) == (2, FailureKind.DEAD, is_preemption)
    assert failure.summary == "its node was terminated"
    budget = FailureBudget()
    assert [budget.allows(failure) for _ in range(5)] == [True, True, True, is_preemption, is_preemption]


def test_process_that_ended_without_a_word_is_told_in_plain_words() -> None:
    message = (
        "The actor died.\nWorker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. "
        "Some common causes include: (1) the process was killed by the OOM killer"
    )
    failure = _ray_failure(0, ActorDiedError(ActorDiedErrorContext(actor_id=b"0" * 16, error_message=message)))
    assert (failure.kind, failure.summary) == (FailureKind.DEAD, "its process was killed, or crashed")


def test_one_that_ray_gave_up_before_it_began_does_not_count() -> None:
    context = ActorDiedErrorContext(actor_id=b"0" * 16, error_message="its place went", never_started=True)
    failure = _ray_failure(0, ActorDiedError(context))
    assert (failure.kind, failure.is_preemption) == (FailureKind.DEAD, True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), FailureKind.DEAD),
        (OutOfMemoryError("memory on the node ran low"), FailureKind.DEAD),
        # Arguments that could not be unpickled there, for one.
        (RayTaskError("load", "Traceback\nImportError: no module", ImportError("no module")), FailureKind.APPLICATION),
    ],
)
def test_errors_of_other_kinds_are_no_preemptions(error: RayError, kind: FailureKind) -> None:
    failure = _ray_failure(0, error)
    assert (failure.kind, failure.is_preemption) == (kind, False)
    assert failure.summary
