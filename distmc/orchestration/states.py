"""Where a run can stand; the controller moves between these states, verdicts name them."""

import enum


class State(enum.Enum):
    """Where a run stands."""

    PENDING = "pending"
    ACQUIRING = "starting workers"
    FORMING = "connecting workers"
    LOADING = "loading data"
    COMPILING = "compiling"
    STARTING = "evaluating the starting positions"
    RUNNING = "sampling"
    SAVING = "saving the last draws"
    TRIAGE = "finding the cause of a failure"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
