"""The fast tier: encoders, feature maps, heads of several memories and their mixture, in NumPy alone.

What belongs here is a function of the events: no clocks, files, threads or processes. Results are equal to the byte
where the number of BLAS threads is; the process that learns sets ``OPENBLAS_NUM_THREADS=1`` before NumPy is imported.
"""
