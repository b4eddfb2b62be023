"""What is measured of an SSN: pairs of images that differ in a block, statistics of them, maps of leaks.

For `ssn_plugin.metrics`, which registers the metrics with the host.
"""
