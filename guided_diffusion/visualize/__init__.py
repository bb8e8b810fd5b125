"""Runs and finished samples in Visdom: windows, the inspector of samples, a server, the commands of `python -m`."""
