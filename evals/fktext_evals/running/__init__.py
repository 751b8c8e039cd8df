"""Running a suite: its cells, the work in each, the sweep over them, and the folder of their results."""
