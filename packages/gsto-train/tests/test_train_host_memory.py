"""What memory a machine has left, as Linux and its control groups tell it."""

from pathlib import Path

import pytest

from gsto_train.run.host import free_host_memory

MIB = 2**20


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root whose machine has 2 MiB."""
    write(tmp_path / "proc/meminfo", "MemTotal:  99 kB\nMemAvailable:   2048 kB\n")
    return tmp_path


def group_of_two(folder: Path, limit: str, used: int, cached: int) -> None:
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(folder / "memory.stat", f"anon 5\ninactive_file {cached}\n")


def group_of_one(folder: Path, limit: int, used: int, cached: int) -> None:
    write(folder / "memory.limit_in_bytes", f"{limit}\n")
    write(folder / "memory.usage_in_bytes", f"{used}\n")
    write(folder / "memory.stat", f"cache 5\ntotal_inactive_file {cached}\n")


def test_without_control_groups_it_is_what_the_machine_has(machine: Path) -> None:
    assert free_host_memory(machine) == 2 * MIB


def test_elsewhere_than_on_linux_it_is_what_is_unused(tmp_path: Path) -> None:
    assert free_host_memory(tmp_path) != 2 * MIB


def test_the_narrowest_group_of_version_2_counts_less_its_cache(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/job/step\n")
    groups = machine / "sys/fs/cgroup"
    group_of_two(groups / "job/step", "max", 700_000, 0)
    assert free_host_memory(machine) == 2 * MIB
    group_of_two(groups / "job", str(MIB), 800_000, 100_000)
    assert free_host_memory(machine) == MIB - 700_000
    group_of_two(groups / "job", str(MIB), 2 * MIB, 0)
    assert free_host_memory(machine) == 0


def test_a_container_sees_its_own_group_as_the_outermost(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/not/to/be/seen/inside\n")
    group_of_two(machine / "sys/fs/cgroup", str(MIB), 0, 0)
    assert free_host_memory(machine) == MIB


def test_groups_of_version_1_count_too(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "5:devices:/\n4:cpu,memory:/job\n")
    group_of_one(machine / "sys/fs/cgroup/memory", 2**63 - 4096, 0, 0)
    assert free_host_memory(machine) == 2 * MIB
    group_of_one(machine / "sys/fs/cgroup/memory/job", MIB, 5000, 1000)
    assert free_host_memory(machine) == MIB - 4000
