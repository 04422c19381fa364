"""The 18 corruptions of KITTI-C: table.py has them all, and how they differ from the published ones."""
