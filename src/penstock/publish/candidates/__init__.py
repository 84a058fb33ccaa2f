"""Bases that may follow what is served: in shadow, on a share of the traffic, beside a system that was there before."""
