"""Who is up, who is about to leave, and who makes up the generation."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from distmc.orchestration.differences import differences
from distmc.orchestration.events import Member


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A worker process that is up, whether or not it has a place in the present generation.

    Attributes
    ----------
    worker : int
        Its number, which no other process of the run ever has.
    node : str
        Address of its node.
    pid : int
        Number of its process on that node.
    devices : tuple of str
        GPUs that it owns, by their numbers on the node.
    facts : mapping of str to str
        What may decide the last bits: processor, versions of libraries.
    """

    worker: int
    node: str
    pid: int
    devices: tuple[str, ...] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Membership:
    """Keeps the candidates and chooses members among them.

    Parameters
    ----------
    fewest, most : int
        Workers that a generation needs, and can use.
    """

    def __init__(self, fewest: int, most: int) -> None:
        self.fewest = fewest
        self.most = most
        self.members: tuple[Member, ...] = ()
        self._wanted = most
        self._up: dict[int, Candidate] = {}
        self._leaving: set[int] = set()

    def has(self, worker: int) -> bool:
        """Say whether a process is up."""
        return worker in self._up

    def is_seated(self, worker: int) -> bool:
        """Say whether a process has a place in the generation."""
        return any(member.worker == worker for member in self.members)

    def add(self, candidate: Candidate) -> None:
        """Take notice of a process that is up."""
        self._up[candidate.worker] = candidate

    def remove(self, workers: Iterable[int]) -> None:
        """Forget processes that are gone."""
        for worker in workers:
            self._up.pop(worker, None)
            self._leaving.discard(worker)

    def leave(self, workers: Iterable[int]) -> None:
        """Take notice of processes that will be gone soon."""
        self._leaving |= set(workers) & set(self._up)

    @property
    def leaving(self) -> tuple[int, ...]:
        """Processes that are up and will be gone soon, or that the run can do without."""
        return tuple(sorted(self._leaving))

    @property
    def staying(self) -> int:
        """Number of processes that are up and will stay."""
        return len(self._up) - len(self._leaving)

    @property
    def is_enough(self) -> bool:
        """Whether those that stay can make up a generation."""
        return self.staying >= self.fewest

    def want(self, number: int) -> None:
        """Set how many processes the next generation should have, if they come in time."""
        self._wanted = min(number, self.most)

    @property
    def is_complete(self) -> bool:
        """Whether as many processes are there as are wanted; at first these are the most."""
        return self.staying >= self._wanted

    @property
    def leaving_members(self) -> tuple[int, ...]:
        """Processes with a place in the generation that will be gone soon."""
        return tuple(member.worker for member in self.members if member.worker in self._leaving)

    @property
    def size_if_formed(self) -> int:
        """Members that a generation formed now would have."""
        return min(self.staying, self.most)

    def form(self) -> tuple[Member, ...]:
        """Choose the members of the next generation; ranks follow nodes and then devices.

        The first sums of the reduction stay inside a node then.
        """
        staying = [candidate for worker, candidate in sorted(self._up.items()) if worker not in self._leaving]
        # Those that have a place keep it: newcomers have everything still to load.
        seated = {member.worker for member in self.members}
        chosen = sorted(staying, key=lambda candidate: candidate.worker not in seated)[: self.most]
        ordered = sorted(chosen, key=lambda candidate: (candidate.node, candidate.devices, candidate.worker))
        self.members = tuple(
            Member(rank=rank, worker=candidate.worker, node=candidate.node, pid=candidate.pid)
            for rank, candidate in enumerate(ordered)
        )
        return self.members

    def workers_of(self, ranks: Collection[int]) -> tuple[int, ...]:
        """Return the processes with these ranks."""
        return tuple(self.members[rank].worker for rank in sorted(ranks) if rank < len(self.members))

    def facts_that_differ(self, ranks: Collection[int]) -> tuple[str, ...]:
        """Say in which facts the machines of the members with these ranks differ from those of the others."""
        known = [self._up[member.worker].facts if member.worker in self._up else {} for member in self.members]
        odd = [facts for rank, facts in enumerate(known) if rank in ranks]
        rest = [facts for rank, facts in enumerate(known) if rank not in ranks] or odd
        return differences(odd, rest)
