"""Benchmarks: ratios against a peer in the same run, never assertions. `make bench`, see docs/performance.md."""
