"""What goes wrong in the runs of test_faults.py, and when."""

from fault_driver import NUM_DRAWS, NUM_WARMUP

from distmc.testing.faults import Fault, Kind, Phase, Plan

CHUNK_STEPS = 5
LAST_STEP = NUM_WARMUP + NUM_DRAWS - 1


def fault(kind: Kind, phase: Phase, step: int = 0, rank: int | None = None, seconds: float = 0.0) -> Fault:
    return Fault(kind=kind, phase=phase, step=step, rank=rank, seconds=0.1 if kind == "slow" else seconds)


# Where a fault is followed by one of a setup phase, the latter strikes the generation that comes of the former. An
# exception that follows another before a chunk is committed costs its worker the place, and a run as short as this one
# does not grow again.
ON_THE_CLUSTER: Plan = (
    fault("slow", "load"),
    fault("slow", "compile", rank=1),
    fault("slow", "start", rank=2),
    fault("raise", "warmup", 10, rank=1),
    fault("kill", "compile", rank=2),
    fault("slow", "commit", 15),
    fault("cut", "warmup", 20, rank=0),
    fault("raise", "load", rank=0),
    fault("raise", "warmup", 25, rank=2),
    fault("slow", "warmup", 30, rank=1),
    fault("drift", "warmup", 35, rank=1),
    fault("raise", "compile", rank=1),
    fault("truncate", "checkpoint", 40),
    fault("slow", "collect", 45),
    fault("kill", "warmup", 50, rank=1),
    fault("cut", "warmup", 55, rank=2),
    fault("raise", "load", rank=1),
    fault("kill", "draws", 65, rank=0, seconds=0.02),
    fault("drift", "draws", 70, rank=2),
    fault("raise", "draws", 75, rank=1),
    fault("cut", "draws", 80, rank=0),
    fault("drift", "draws", 85, rank=0),
    fault("slow", "checkpoint", 90),
    fault("cut", "draws", 95, rank=0),
    fault("raise", "compile", rank=1),
    fault("raise", "draws", 100, rank=2),
    fault("kill", "form", rank=1),
    fault("drift", "draws", 110, rank=1),
    fault("raise", "load", rank=2),
    fault("drift", "draws", 115, rank=0),
    fault("raise", "compile", rank=2),
    fault("cut", "draws", 120, rank=1, seconds=0.01),
    fault("kill", "load", rank=0),
    fault("raise", "collect", 125),
    fault("drift", "draws", 130, rank=0),
    fault("slow", "draws", 135),
    fault("drift", "draws", 140, rank=1),
    fault("raise", "collect", 145),
    fault("slow", "draws", 150, rank=1),
    fault("cut", "draws", 155, rank=2),
    fault("raise", "load", rank=0),
    fault("kill", "collect", 160),
    fault("raise", "draws", 165, rank=1),
    fault("drift", "draws", 175, rank=2),
    fault("raise", "load", rank=1),
    fault("drift", "draws", 180, rank=0),
    # Two at once.
    fault("kill", "draws", 190, rank=0),
    fault("kill", "draws", 190, rank=1),
    fault("cut", "draws", 205, rank=2),
    fault("corrupt", "checkpoint", 210),
    fault("raise", "draws", 220, rank=0),
    fault("kill", "start", rank=1),
    fault("raise", "draws", 230, rank=2),
    fault("drift", "draws", 235, rank=1),
    fault("slow", "draws", 240, rank=2),
    fault("drift", "draws", 250, rank=0),
    fault("raise", "load", rank=1),
    fault("raise", "draws", 265, rank=1),
    fault("drift", "draws", 275, rank=2),
    fault("raise", "compile", rank=0),
    fault("slow", "collect", 280),
    fault("cut", "draws", 285, rank=1),
    # While the run waits for the last chunk.
    fault("kill", "collect", LAST_STEP - CHUNK_STEPS),
)
IN_ONE_PROCESS: Plan = (
    fault("slow", "load"),
    fault("raise", "warmup", 10),
    fault("raise", "collect", 25),
    fault("slow", "collect", 30),
    # The run cannot even say that it failed.
    fault("full disk", "commit", 40),
    fault("full disk", "record", 40),
    fault("raise", "load"),
    # What is damaged last is what the resumed run looks at first.
    fault("truncate", "checkpoint", 55),
    fault("full disk", "checkpoint", 60),
    fault("raise", "compile"),
    fault("slow", "commit", 80),
    fault("slow", "checkpoint", 90),
    fault("raise", "draws", 100),
    fault("slow", "compile"),
    fault("slow", "start"),
    fault("slow", "draws", 120),
    fault("raise", "draws", 140),
    fault("corrupt", "checkpoint", 160),
    fault("full disk", "commit", 165),
    fault("truncate", "commit", 285),
    fault("raise", "start"),
    fault("full disk", "finalise"),
)
DRIVER_KILLED_LOCALLY: Plan = (
    fault("kill", "load"),
    fault("kill", "start"),
    fault("kill", "draws", 100, seconds=0.001),
    fault("kill", "checkpoint", 150),
    fault("corrupt", "commit", 200),
    # When the run notes that it is saving.
    fault("kill", "record", 200),
    fault("kill", "finalise"),
)
# Those after the kill strike a process without a cluster, which takes the run up.
DRIVER_KILLED: Plan = (
    fault("full disk", "commit", 30),
    fault("kill", "commit", 100),
    fault("full disk", "checkpoint", 170),
    fault("corrupt", "commit", 290),
)
STOPPED: Plan = (
    fault("stop", "warmup", 20, rank=0),
    fault("stop", "draws", 100, rank=1),
    fault("stop", "collect", 160),
    fault("stop", "start", rank=2),
)
