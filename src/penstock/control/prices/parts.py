"""How the price of a machine is split over what it has."""

CPU_USD_H, MEMORY_USD_GIB_H, GPU_USD_H = 0.031611, 0.004237, 0.95
"""OpenCost's default prices of a core, a GiB and a GPU. Only their ratios count here."""
