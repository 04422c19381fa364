"""Metric monocular depth with calibrated uncertainty, as a ROS 2 node."""
