"""Training and generation, as functions and generators over tensors that know nothing of jobs, the database or storage.

The two loops are `train_lora.py` and `generate.py`. Around them are the files they read and write (photos, batches,
checkpoints, LoRA files), the models in memory (`base_models.py`, `upscale.py`) and what each family does in its own way
(`architectures/`). `single_files/` imports published weights. There are more than a dozen files here, each with one
idea; they are grouped when more families of models arrive.
"""
