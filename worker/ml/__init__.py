"""Training, generation and meshes: functions and generators over tensors that know no jobs, database or storage.

`protocol.py` says what the two loops, `draw/` and `train/`, ask of a family of models; `families/` answers, and alone
names families. `models.py` keeps bases in memory, `adapters/` puts LoRAs on their denoisers, `networks/` holds the
models that denoise nothing, and `single_files/` imports published weights. `cutout/` takes an object out of a picture,
`mesh/` makes a 3D model of it.
"""
