"""The GPU check: what works, what fits and how fast it is on this GPU, at real sizes and with random weights.

    python -m tools.gpu_check [--tiny] [--only GROUP] [--out FILE]

__main__.py    the command
groups.py      the ten groups and their checks
runner.py      performs checks, each with its deadline, and makes a line of each
environment.py their environment
bench.py       what checks share: the device, a folder, photos, the bases
random_base.py a base at its real geometry with random weights
measure.py     time, memory of the device, memory of the host
trace.py       what torch's profiler saw: how busy the GPU was, what the CPU waited for

`checks/` holds the checks, a theme each. It needs no database, no storage and no hub.
"""
