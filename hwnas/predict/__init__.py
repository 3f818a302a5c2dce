"""From measured networks to the latency, throughput, memory or energy of any network, and how sure that is.

Features are read from workloads; nothing here needs torch or a device.
"""
