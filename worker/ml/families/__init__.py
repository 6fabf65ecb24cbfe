"""The model families: one file each, and nothing else names a family.

`lora/` has the names of each family's LoRA files, `single_files/` imports its published weights, `tiny/` builds small
untrained bases of it, `controlnets/` and `ip_adapters/` have what is theirs in guides. `registry.py` lists them all;
the others import no pipelines. There are more than a dozen files, as each family adds one; the rest is what several
share.
"""
