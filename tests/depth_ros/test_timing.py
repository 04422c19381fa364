from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from depth_ros.tools.processes import ROOT
from depth_ros.tools.timing import LEAST, MOST, WARM_UP, percentiles, time_calls


def test_slow_calls_are_few_and_fast_ones_no_more_than_needed():
    seen = []
    times, cpu_times = time_calls(lambda number: (seen.append(number), time.sleep(0.002)), seconds=0.001)
    assert seen == [*range(WARM_UP), *range(LEAST)]
    assert min(times) >= 0.002
    assert np.median(cpu_times) < 0.002  # asleep
    assert len(time_calls(lambda number: None, seconds=5.0)[0]) == MOST


def test_percentiles_of_a_hundred_and_one_times():
    assert percentiles(range(101)) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


def test_peak_sees_what_is_given_back_before_it_is_read():
    """In a process of its own, whose memory no other test has touched."""
    program = """
import numpy as np
from depth_ros.tools.timing import peak, start_of_peak
before = start_of_peak()
block = np.ones(200 << 20, np.uint8)
del block
print(peak() - before)
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(found.stdout) == pytest.approx(200 << 20, rel=0.2)
