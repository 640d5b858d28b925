import json
import os
import platform

import pytest

from kdengine.machine import OF_THE_USER, cores

FAULTS = """
import json, resource
from kdengine.machine import keep_freed_memory

kept = keep_freed_memory()

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [bytearray(2**23) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

step()
print(json.dumps([kept, step()]))
"""
"""Counts the pages that a step takes from the system though the step before has freed as many."""


def test_the_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert cores() == 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators cannot be told")
@pytest.mark.parametrize(("variables", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_memory_that_a_step_frees_is_kept_for_the_next_unless_the_user_has_said_how(variables, kept, python, monkeypatch):
    for name in [name for name in os.environ if name.startswith(OF_THE_USER)]:
        monkeypatch.delenv(name)
    found, faults = json.loads(python(FAULTS, **variables))
    assert found == kept
    pages = 16 * 2**23 // os.sysconf("SC_PAGE_SIZE")
    assert (faults < pages / 100) == kept
