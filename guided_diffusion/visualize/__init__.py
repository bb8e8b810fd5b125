"""Visdom: windows of a run, the inspector of finished samples, a server, and the commands of `python -m`."""
