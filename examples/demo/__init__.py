"""What does mlguard do, before your eyes? `python -m examples.demo`, or `make demo`."""
