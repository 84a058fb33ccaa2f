"""The rim: one vendor, one file, through the doors only. No policy, and nothing that the product needs to run."""
