"""Recordings through the node's own code, without DDS: one job per input, its files, and where jobs run."""
