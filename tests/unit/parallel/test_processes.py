"""Real processes join, compute, lose one another and leave."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from distmc.parallel import processes

MEMBER = pathlib.Path(__file__).with_name("group_member.py")
ROOT = pathlib.Path(__file__).parents[3]
HOST = "127.0.0.1"


class Member:
    """A child process that follows orders."""

    def __init__(self, **environment: str) -> None:
        variables = {**os.environ, **processes.worker_environment(1, uses_gpu=False, hang_timeout_seconds=20.0)}
        variables |= {"PYTHONPATH": str(ROOT), **environment}
        self.process = subprocess.Popen(
            [sys.executable, str(MEMBER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=variables,
        )

    def order(self, do: str, **details: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **details}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                return dict(json.loads(line[1:]))
        raise AssertionError(f"the process ended with code {self.process.wait()}")


@pytest.fixture
def members() -> Iterator[list[Member]]:
    with contextlib.ExitStack() as stack:
        group = [Member(), Member()]
        for member in group:
            stack.enter_context(member.process)
            stack.callback(member.process.kill)
        yield group


def ask_all(members: list[Member], do: str, **details: Any) -> list[dict[str, Any]]:
    for member in members:
        member.order(do, **details)
    return [member.answer() for member in members]


def join_all(members: list[Member], coordinator: processes.Coordinator, host: str = HOST) -> None:
    for rank, member in enumerate(members):
        member.order("join", address=coordinator.address, num_processes=len(members), rank=rank, host=host)
    assert [member.answer().get("value") for member in members] == ["joined"] * len(members)


def test_processes_add_also_after_the_coordinator_is_gone(members: list[Member]) -> None:
    with processes.start_coordinator(HOST, 2) as coordinator:
        join_all(members, coordinator)
        assert [answer["value"] for answer in ask_all(members, "add", value=1.5)] == [3.0, 3.0]
        ask_all(members, "detach")
    assert [answer["value"] for answer in ask_all(members, "add", value=2.0)] == [4.0, 4.0]


def test_survivor_of_a_killed_peer_gets_an_exception_and_joins_anew(members: list[Member]) -> None:
    survivor, victim = members
    with processes.start_coordinator(HOST, 2) as coordinator:
        join_all(members, coordinator)
        ask_all(members, "add", value=1.0)
        ask_all(members, "detach")
    survivor.order("add", value=1.0)
    victim.process.kill()
    answer = survivor.answer()
    assert "Gloo" in answer["message"], answer
    # Far below the 16 seconds that a silent peer would be waited for.
    assert answer["seconds"] < 10.0
    survivor.order("leave")
    survivor.answer()
    with processes.start_coordinator(HOST, 1) as coordinator:
        join_all([survivor], coordinator)
        assert ask_all([survivor], "add", value=5.0)[0]["value"] == 5.0


def test_join_refuses_a_process_that_has_used_a_device(members: list[Member]) -> None:
    early, _ = members
    assert ask_all([early], "add", value=1.0)[0]["value"] == 1.0
    early.order("join", address=f"{HOST}:1", num_processes=2, rank=0, host=HOST)
    answer = early.answer()
    assert answer["error"] == "RuntimeError"
    assert "before it joined" in answer["message"]


def test_collectives_listen_on_the_given_address(members: list[Member]) -> None:
    with processes.start_coordinator(HOST, 2) as coordinator:
        # This address belongs to documentation (RFC 5737), so no machine can listen on it.
        host = "203.0.113.254"
        for rank, member in enumerate(members):
            member.order("join", address=coordinator.address, num_processes=2, rank=rank, host=host)
        answers = [member.answer() for member in members]
    assert all("error" in answer for answer in answers), answers


def test_join_ignores_web_proxies() -> None:
    nowhere = "http://127.0.0.1:9"
    member = Member(http_proxy=nowhere, https_proxy=nowhere, grpc_proxy=nowhere)
    with member.process, processes.start_coordinator(HOST, 1) as coordinator:
        join_all([member], coordinator)
        member.process.kill()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "10.0.0.7"),
        ({"no_proxy": "localhost,.example.org"}, "localhost,.example.org,10.0.0.7"),
        ({"no_proxy": "elsewhere", "no_grpc_proxy": "localhost,10.0.0.7"}, "localhost,10.0.0.7"),
    ],
)
def test_hosts_that_no_proxy_serves_stay_so(given: dict[str, str], kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.setenv(name, given.get(name, ""))
    processes._connect_past_proxies("10.0.0.7:1234")
    assert os.environ["no_grpc_proxy"] == kept


def test_coordinators_do_not_share_a_port() -> None:
    with processes.start_coordinator(HOST, 2) as first, processes.start_coordinator(HOST, 2) as second:
        assert first.address != second.address
        first.shutdown()
        first.shutdown()


def test_coordinator_refuses_an_address_of_another_machine() -> None:
    with pytest.raises(RuntimeError, match=r"203\.0\.113\.254"):
        processes.start_coordinator("203.0.113.254", 2)


def test_error_stream_keeps_all_lines_but_the_notice(capfd: pytest.CaptureFixture[str]) -> None:
    with processes._error_stream_without(b"noise"):
        os.write(2, b"before\nsome noise here\nafter\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "before\nafter\nlater\n"


def test_coordinator_starts_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    processes.start_coordinator(HOST, 2).shutdown()
    assert capfd.readouterr().err == ""


def test_private_names_are_there() -> None:
    processes.require_private_names()


def test_missing_private_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, _ = processes.require_private_names()
    reduced = types.SimpleNamespace(get_distributed_runtime_service=runtime.get_distributed_runtime_service)
    monkeypatch.setattr("jax._src.lib._jax", reduced)
    with pytest.raises(RuntimeError, match=r"jax .*get_distributed_runtime_client, make_gloo_tcp_collectives"):
        processes.require_private_names()


def test_environment_bounds_threads_and_silence() -> None:
    variables = processes.worker_environment(3, uses_gpu=False, hang_timeout_seconds=10.0, xla_flags="--xla_mine=1")
    assert variables["PJRT_NPROC"] == "3"
    assert variables["JAX_PLATFORMS"] == "cpu"
    assert variables["XLA_FLAGS"] == "--xla_mine=1 --xla_cpu_collective_timeout_seconds=8"


def test_environment_keeps_the_users_collective_timeout() -> None:
    flags = "--xla_cpu_collective_timeout_seconds=7"
    assert processes.worker_environment(1, uses_gpu=True, xla_flags=flags)["XLA_FLAGS"] == flags
