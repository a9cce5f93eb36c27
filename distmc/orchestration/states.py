"""Where a run can stand; the controller moves between these states, verdicts name them."""

import enum


class State(enum.Enum):
    """Where a run stands."""

    PENDING = "pending"
    ACQUIRING = "starting workers"
    MEETING = "calling the workers together"
    FORMING = "connecting workers"
    LOADING = "loading data"
    COMPILING = "compiling"
    STARTING = "evaluating the starting positions"
    RUNNING = "sampling"
    REGROUPING = "letting workers join or leave"
    SAVING = "saving the last draws"
    TRIAGE = "finding the cause of a failure"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
