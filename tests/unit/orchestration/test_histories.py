"""Random histories of a small cluster that loses, stops, gains and takes away workers, against a few laws."""

import collections
from typing import Any

from control_scripts import HANG_TIMEOUT, controller, finish_of, ready, report
from hypothesis import given, settings
from hypothesis import strategies as st

from distmc.errors import CapacityError, DriftError, Interrupted, WorkerError
from distmc.orchestration import messages as m
from distmc.orchestration.events import ChunkCommitted
from distmc.orchestration.membership import Candidate
from distmc.orchestration.states import State

NUM_STEPS = 40
FEWEST, MOST = 2, 4
Kind = m.FailureKind


class Cluster:
    """Carries out orders as a real one would: in order for each worker, together where workers compute together."""

    def __init__(self) -> None:
        self.control = controller(FEWEST, MOST, NUM_STEPS)
        self.now = 0.0
        self.up: set[int] = set()
        self.coming: list[int] = []
        self.stopped: set[int] = set()
        self.taken: set[int] = set()
        self.num_started = 0
        self.members: tuple[int, ...] = ()
        # What each member still has to answer to, oldest first.
        self.inbox: dict[int, collections.deque[m.ToGeneration]] = {}
        self.start = self.before = self.reached = (0, 0)
        self.committed: list[tuple[int, int]] = []
        self.ended: list[m.Action] = []
        # Workers killed or stopped since the last commit, those on machines that were taken away not counted.
        self.harm = 0
        # Exceptions, differences and failed starts since the last commit.
        self.wrong: collections.Counter[str] = collections.Counter()
        # What the next answers will be: of these workers an exception, or a digest that nobody else has.
        self.raising: set[int] = set()
        self.drifting: set[int] = set()
        self.stop_is_asked = self.room_is_missed = False
        self.leaving: set[int] = set()
        self.tell(m.RunRequested())

    def tell(self, event: m.Event) -> None:
        actions = self.control.handle(event, self.now)
        for place, action in enumerate(actions):
            self.carry_out(action)
            if isinstance(action, m.Finish):
                self.ended = actions[: place + 1]

    def carry_out(self, action: m.Action) -> None:
        match action:
            case m.Acquire():
                missing = MOST - len(self.up - self.leaving) - len(self.coming)
                self.coming += range(self.num_started, self.num_started + max(0, missing))
                self.num_started += max(0, missing)
            case m.Release():
                self.up -= set(action.workers)
                self.stopped -= set(action.workers)
            case m.Meet():
                self.meet(action)
            case m.Form() | m.Load() | m.Compile() | m.Start() | m.Advance():
                assert not self.owing(), "an order was given before the last was answered by all"
                self.move(action)
                for worker in self.members:
                    self.inbox[worker].append(action)
            case m.Collect():
                self.inbox[self.members[action.rank]].append(action)
            case m.Commit():
                # Chunks follow each other without a gap, and none is written twice.
                before = self.committed[-1] if self.committed else (0, 0)
                assert (action.report.chunk, action.report.step - action.report.num_steps) == (before[0] + 1, before[1])
                self.committed.append((action.report.chunk, action.report.step))
                self.harm = 0
                self.wrong.clear()
                self.tell(m.Committed(action.report.chunk))
            case m.Tell(event=ChunkCommitted() as event):
                assert (event.report.chunk, event.report.step) == self.committed[-1]

    def move(self, order: m.ToGeneration) -> None:
        """Note chunk and step that the workers come to by `order`."""
        if isinstance(order, m.Start):
            point = order.checkpoint
            self.start = self.reached = (point.chunk, point.step) if point else (0, 0)
        if isinstance(order, m.Advance):
            self.before = self.reached
            self.reached = self.before[0] + 1, min(self.before[1] + order.num_steps, NUM_STEPS)

    def meet(self, order: m.Meet) -> None:
        workers = tuple(member.worker for member in order.members)
        assert FEWEST <= len(workers) <= MOST
        assert len(set(workers)) == len(workers)
        assert [member.rank for member in order.members] == list(range(len(workers)))
        self.members = workers
        for worker in workers:
            self.inbox.setdefault(worker, collections.deque()).append(order)

    def owing(self) -> list[m.ToGeneration]:
        """Return the orders of this generation, arrays aside, that have not been answered."""
        orders = [order for worker in self.members for order in self.inbox[worker]]
        now = self.control.generation
        return [order for order in orders if order.generation == now and not isinstance(order, m.Collect)]

    # What may happen ----------------------------------------------------------------------------------------------

    def come(self) -> None:
        if self.coming:
            worker = self.coming.pop(0)
            self.up.add(worker)
            self.tell(m.WorkerUp(Candidate(worker=worker, node=f"10.0.0.{worker % 3}", pid=worker)))

    def fail_to_start(self) -> None:
        if self.coming:
            self.wrong["start"] += 1
            self.tell(m.StartFailed(self.coming.pop(0), m.Failure(rank=0, kind=Kind.DEAD, summary="no such package")))

    def miss_room(self) -> None:
        # Known only to an executor that waits for workers; one that comes too late has no effect.
        self.room_is_missed |= self.control.state is State.ACQUIRING
        self.tell(m.CapacityMissing("no room"))

    def ask_to_stop(self) -> None:
        self.stop_is_asked = True
        self.tell(m.StopRequested("Ctrl-C"))

    def make_fail(self, place: int, kind: m.FailureKind) -> None:
        alive = sorted(self.up)
        if alive:
            (self.drifting if kind is Kind.DRIFT else self.raising).add(alive[place % len(alive)])

    def answer(self, place: int) -> None:
        waiting = [worker for worker in sorted(self.inbox) if self.inbox[worker] and worker not in self.stopped]
        if not waiting:
            return
        worker = waiting[place % len(waiting)]
        order = self.inbox[worker].popleft()
        rank = self.members.index(worker) if worker in self.members else 0
        together = isinstance(order, m.Form | m.Start | m.Advance)
        if worker not in self.up:
            is_preemption = worker in self.taken
            self.fail(order, m.Failure(rank=rank, kind=Kind.DEAD, summary="killed", is_preemption=is_preemption))
            self.tell(m.WorkerGone(worker))
        elif order.generation != self.control.generation:
            self.tell(m.Replied(generation=order.generation, rank=rank, value=report(99, 99, rank, digest="old")))
        elif isinstance(order, m.Collect):
            self.tell(ready(order.chunk, order.generation))
        elif together and not set(self.members) <= self.up:
            self.fail(order, m.Failure(rank=rank, kind=Kind.COLLECTIVE, summary="Gloo failed"))
        elif together and not self.stopped.isdisjoint(self.members):
            self.inbox[worker].appendleft(order)
        elif worker in self.raising and isinstance(order, m.Load | m.Compile | m.Start | m.Advance):
            self.raising.remove(worker)
            self.wrong["exception"] += 1
            self.fail(order, m.Failure(rank=rank, kind=Kind.APPLICATION, summary="words"))
        else:
            self.tell(m.Replied(generation=order.generation, rank=rank, value=self.value(order, rank)))

    def fail(self, order: m.ToGeneration, failure: m.Failure) -> None:
        self.tell(m.WorkerFailed(generation=order.generation, failure=failure))

    def value(self, order: m.ToGeneration, rank: int) -> Any:
        if isinstance(order, m.Start):
            return report(*self.start, rank, num_steps=0)
        if isinstance(order, m.Advance):
            worker = self.members[rank]
            drifts = worker in self.drifting and len(self.members) > 1
            if drifts:
                self.drifting.remove(worker)
                self.wrong["difference"] += 1
            digest = f"of {worker}" if drifts else "same"
            return report(*self.reached, rank, digest, num_steps=self.reached[1] - self.before[1])
        return None

    def kill(self, place: int, is_preemption: bool) -> None:
        alive = sorted(self.up)
        if alive:
            self.up.discard(alive[place % len(alive)])
            self.taken |= {alive[place % len(alive)]} if is_preemption else set()
            self.harm += not is_preemption

    def kill_node(self, node: int) -> None:
        lost = {worker for worker in self.up if worker % 3 == node % 3}
        self.up -= lost
        # If it is known soon, that is one failure; here it may become known of one after the other.
        self.harm += len(lost)

    def stop(self, place: int) -> None:
        alive = sorted(self.up)
        if alive:
            self.stopped.add(alive[place % len(alive)])
            self.harm += 1

    def take_away(self, place: int) -> None:
        if self.members:
            leaving = self.members[place % len(self.members)]
            self.leaving.add(leaving)
            self.tell(m.WorkersLeaving(frozenset({leaving})))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tell(m.Tick())

    def hush(self, seconds: float) -> None:
        """Let nobody answer for so long; to the controller that may be the silence of all."""
        self.harm += seconds >= HANG_TIMEOUT
        self.wait(seconds)

    def recover(self) -> None:
        """Let everything go well from now on."""
        for turn in range(400):
            if self.ended:
                return
            self.come()
            for place in range(3 * MOST):
                self.answer(place)
            self.wait(HANG_TIMEOUT if turn % 10 == 9 else 0.1)


# How often each of them comes up.
HAPPENINGS = collections.Counter(
    {"come": 2, "answer": 8, "kill": 2, "kill node": 1, "hang": 2, "raise": 1, "drift": 1, "fail to start": 1}
    | {"take": 2, "wait": 2}
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_laws_hold_whatever_happens(data: st.DataObject) -> None:
    cluster = Cluster()
    place = st.integers(0, 5)
    # These end most runs, so that not every history has them.
    rarely = data.draw(st.sampled_from(["wait", "miss room", "ask to stop"]))
    for _ in range(data.draw(st.integers(0, 120))):
        match data.draw(st.sampled_from([*HAPPENINGS.elements(), rarely])):
            case "come":
                cluster.come()
            case "answer":
                cluster.answer(data.draw(place))
            case "kill":
                cluster.kill(data.draw(place), data.draw(st.booleans()))
            case "kill node":
                cluster.kill_node(data.draw(place))
            case "hang":
                cluster.stop(data.draw(place))
            case "raise":
                cluster.make_fail(data.draw(place), Kind.APPLICATION)
            case "drift":
                cluster.make_fail(data.draw(place), Kind.DRIFT)
            case "fail to start":
                cluster.fail_to_start()
            case "miss room":
                cluster.miss_room()
            case "ask to stop":
                cluster.ask_to_stop()
            case "take":
                cluster.take_away(data.draw(place))
            case "wait":
                cluster.hush(data.draw(st.sampled_from([0.1, 3.0, HANG_TIMEOUT, 5 * HANG_TIMEOUT])))
        if cluster.ended:
            break
    cluster.recover()
    assert cluster.ended, f"the run stands still while it is {cluster.control.state.value}"
    require_lawful_end(cluster)


def require_lawful_end(cluster: Cluster) -> None:
    error = finish_of(cluster.ended)
    assert isinstance(error, Interrupted) is cluster.stop_is_asked
    # A death that becomes known late is heard of twice: as lost contact first.
    is_too_much = 2 * cluster.harm + cluster.wrong.total() > 3
    match error:
        case None:
            assert cluster.control.state is State.DONE
            assert cluster.committed[-1][1] == NUM_STEPS
        case Interrupted():
            assert cluster.control.state is State.CANCELLED
            kept = f"{cluster.committed[-1][1]} of {NUM_STEPS} steps are" if cluster.committed else "no step is"
            assert kept in str(error)
        case CapacityError():
            assert cluster.room_is_missed
        case DriftError():
            assert cluster.wrong["difference"] > int(not is_too_much)
        case _:
            # Only failures that come again and again without progress may end it.
            assert isinstance(error, WorkerError)
            assert cluster.wrong["exception"] > 1 or is_too_much
