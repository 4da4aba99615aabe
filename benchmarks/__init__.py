"Speed, measured as ratios in one run against the same work done the usual way: `python -m benchmarks --help`"
