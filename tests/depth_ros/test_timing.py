from __future__ import annotations

import time

import numpy as np
import pytest

from depth_ros.tools.timing import LEAST, MOST, WARM_UP, peak, percentiles, start_of_peak, time_calls


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
    before = start_of_peak()
    block = np.ones(200 << 20, np.uint8)
    del block
    assert peak() - before == pytest.approx(200 << 20, rel=0.2)
