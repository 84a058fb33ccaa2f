"""Make it a version that can be found, served, explained and rebuilt: live weights, snapshots, receipts."""
