"""LoRA training: the loop, and the photos, settings and checkpoints that it reads and writes.

It has over a dozen files, because what a step depends on (its order, seeds, schedule, memory) is an idea each.
"""
