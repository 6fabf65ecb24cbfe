"""Training and generation, as functions and generators over tensors that know nothing of jobs, the database or storage.

`protocol.py` says what the two loops, `draw/` and `train/`, ask of a family of models; `families/` answers, and alone
names families. `models.py` keeps bases in memory, `adapters/` puts LoRAs on their denoisers, `networks/` holds the
models that denoise nothing, and `single_files/` imports published weights.
"""
