"""Free memory is the smaller of the system's and the control group's."""

from shards.support.memory import free_memory


def test_free_memory_is_the_systems_or_what_a_control_group_leaves(tmp_path):
    assert 1 << 20 < free_memory() < 1 << 50
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     5000 kB\n")
    assert free_memory(tmp_path) == 5_120_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000000\n")
    for limit, left in (("max", 5_120_000), ("1500000", 500_000), ("900000", 0)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert free_memory(tmp_path) == left
