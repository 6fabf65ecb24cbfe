"""`worker demo`: the whole pipeline on one machine, with servers, a person and an app of its own. `run.py` is the
command, `demo.py` its steps; `drawing/` draws the person, `output/` is what the user sees, and `small_base/` is the
trained base that ships (`tools/small_base` made it).
"""
