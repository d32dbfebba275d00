"""The arithmetic of one layer between its convolution and its spikes, in a form for each device.

`plain` is PyTorch and runs everywhere.
"""
