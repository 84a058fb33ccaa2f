"""The commands of `penstock bench`: what may be asked of each and how its figures are told.

What is measured, and how, belongs to `penstock.cli.benchmarks`."""
