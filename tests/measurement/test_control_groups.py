"""Control groups as files under another root: what Linux shows of both versions, in and out of containers."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lenet.measurement import environment
from lenet.measurement.control_groups import GroupLimits, group_limits
from lenet.measurement.environment import FINGERPRINT_FIELDS, describe_difference, fingerprint, machine_facts

CPU = torch.device("cpu")
GIB = 1 << 30
NO_LIMIT = "9223372036854771712"
V1 = """
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
"""
V2 = """
29 23 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""


def tree(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    for name, content in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts.strip() + "\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def unified(root: Path, files: dict[str, str], group: str = "/a/b", top: str = "/") -> GroupLimits:
    named = {f"sys/fs/cgroup{name}": f"{content}\n" for name, content in files.items()}
    return group_limits(tree(root, f"0::{group}\n", V2.format(top=top), named))


def legacy(root: Path, files: dict[str, str], group: str = "/docker/1", top: str = "/") -> GroupLimits:
    named = {f"sys/fs/cgroup/{name}": f"{content}\n" for name, content in files.items()}
    groups = f"4:memory:{group}\n1:cpu,cpuacct:{group}\n9:name=systemd:/\n0::/\n"
    return group_limits(tree(root, groups, V1.format(top=top), named))


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert group_limits(tmp_path) == GroupLimits(None, None)


def test_version_2_has_a_quota_and_a_size(tmp_path: Path) -> None:
    found = unified(tmp_path, {"/a/b/cpu.max": "150000 100000", "/a/b/memory.max": str(2 * GIB)})
    assert found == GroupLimits(1.5, 2 * GIB)


def test_version_2_without_limits(tmp_path: Path) -> None:
    assert unified(tmp_path, {"/a/b/cpu.max": "max 100000", "/a/b/memory.max": "max"}) == GroupLimits(None, None)


def test_the_group_above_limits_as_well(tmp_path: Path) -> None:
    files = {"/a/cpu.max": "50000 100000", "/a/b/cpu.max": "400000 100000", "/a/memory.max": str(GIB)}
    assert unified(tmp_path, {**files, "/a/b/memory.max": "max"}) == GroupLimits(0.5, GIB)


@pytest.mark.parametrize(("group", "top"), [("/", "/"), ("/docker/1", "/docker/1"), ("/../../other", "/")])
def test_a_container_sees_its_own_group_as_the_top(tmp_path: Path, group: str, top: str) -> None:
    files = {"/cpu.max": "200000 100000", "/memory.max": str(4 * GIB)}
    assert unified(tmp_path, files, group, top) == GroupLimits(2.0, 4 * GIB)


def test_version_1_has_a_quota_and_a_size(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "25000",
        "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "memory/docker/1/memory.limit_in_bytes": str(GIB),
        "memory/memory.limit_in_bytes": NO_LIMIT,
    }
    assert legacy(tmp_path, files) == GroupLimits(0.25, GIB)


def test_version_1_without_limits(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/docker/1/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000",
        "memory/docker/1/memory.limit_in_bytes": NO_LIMIT,
    }
    assert legacy(tmp_path, files) == GroupLimits(None, None)


def test_a_mount_with_a_space_in_its_name_is_read(tmp_path: Path) -> None:
    mounts = "29 23 0:26 / /a\\040b rw - cgroup2 cgroup2 rw"
    root = tree(tmp_path, "0::/\n", mounts, {"a b/cpu.max": "100000 100000\n"})
    assert group_limits(root).cpus == 1.0


short_texts = st.text(st.characters(codec="ascii"), max_size=12)
anything = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@anything
@given(quota=short_texts, size=short_texts)
def test_files_of_another_form_say_nothing_and_raise_nothing(
    tmp_path_factory: pytest.TempPathFactory, quota: str, size: str
) -> None:
    found = unified(tmp_path_factory.mktemp("root"), {"/a/b/cpu.max": quota, "/a/b/memory.max": size})
    assert isinstance(found, GroupLimits)


def facts_with(monkeypatch: pytest.MonkeyPatch, limits: GroupLimits) -> dict[str, Any]:
    monkeypatch.setattr(environment, "group_limits", lambda: limits)
    return machine_facts(CPU)


def test_a_machine_without_limits_keeps_the_fingerprint_of_files_that_know_of_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "switches", dict)
    monkeypatch.setattr(environment, "_affinity", lambda: None)
    facts = facts_with(monkeypatch, GroupLimits(None, None))
    older = json.loads(json.dumps(facts))
    for where, name in ((older["cpu"], "quota"), (older["cpu"], "affinity"), (older, "switches")):
        del where[name]
    del older["memory_limit_bytes"]
    assert fingerprint(facts) == fingerprint(older)
    # The rule written out: saved baselines are found by it.
    values = {field: environment._fact(facts, field) for field in FINGERPRINT_FIELDS}
    machine = [value for field, value in values.items() if not field.startswith("packages.")]
    installed = [[field, value] for field, value in values.items() if field.startswith("packages.") and value]
    assert fingerprint(facts) == hashlib.sha256(json.dumps(machine + installed).encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (GroupLimits(1.5, None), "cpu.quota: 1.5, not None"),
        (GroupLimits(None, GIB), f"memory_limit_bytes: {GIB}, not None"),
    ],
)
def test_a_limit_is_another_machine_and_is_named(
    monkeypatch: pytest.MonkeyPatch, limits: GroupLimits, said: str
) -> None:
    whole = facts_with(monkeypatch, GroupLimits(None, None))
    limited = facts_with(monkeypatch, limits)
    assert fingerprint(whole) != fingerprint(limited)
    assert describe_difference(limited, whole) == [said]


def test_facts_that_do_not_tell_of_limits_are_not_said_to_differ_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = facts_with(monkeypatch, GroupLimits(1.5, GIB))
    older = json.loads(json.dumps(limited))
    del older["memory_limit_bytes"], older["cpu"]["quota"]
    assert describe_difference(limited, older) == []


@pytest.mark.parametrize(
    ("cpus", "all_of_them", "said"),
    [({0, 1}, 2, None), ({0, 1, 2, 8}, 16, "0-2,8"), ({5}, 16, "5"), ({0, 2, 4}, 6, "0,2,4")],
)
def test_the_cpus_of_a_set_are_told_where_they_are_not_all(
    monkeypatch: pytest.MonkeyPatch, cpus: set[int], all_of_them: int, said: str | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda **_: all_of_them)
    assert machine_facts(CPU)["cpu"]["affinity"] == said


def test_a_switch_of_a_library_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = machine_facts(CPU)
    monkeypatch.setenv("LD_PRELOAD_FOR_NOBODY", "x")
    assert fingerprint(machine_facts(CPU)) == fingerprint(plain)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    switched = machine_facts(CPU)
    assert fingerprint(switched) != fingerprint(plain)
    assert switched["switches"]["ATEN_CPU_CAPABILITY"] == "default"
