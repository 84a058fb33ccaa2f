"""What `penstock plan` asks, measures and shows; what it decides is `penstock.control.plan`."""
