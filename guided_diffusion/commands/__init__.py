"""The bodies of the commands: scripts/ has them by their published names, the wheel as cimd-NAME."""
