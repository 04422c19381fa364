"""KITTI in its own layouts: raw recordings, odometry, Stereo 2015."""
