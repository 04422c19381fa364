"""Command-line programs of depth_ros."""
