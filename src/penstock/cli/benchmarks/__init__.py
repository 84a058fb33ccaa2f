"""The benchmarks that `penstock bench` runs: what is measured and how it is reported, each with its floors and peers.

Nothing that the product needs belongs here."""
