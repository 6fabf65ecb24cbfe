-- What base models need where a pod quantises the denoiser: in int8 if that fits, else in nf4, which the figures are for. Computed at
-- the published geometry (tests/ml/test_plans.py), not measured on a GPU. Only figures that are still the published ones change.

-- FLUX.1: the transformer takes 11.16 GiB in int8 and 5.81 in nf4, T5 8.87, CLIP 0.23. Drawing 1024 x 1024 needs in nf4: 5.81 + 0.10 for
-- a layer's weights made wide + 0.46 for the work of a step + 0.08 for a LoRA + 0.25 for workspaces = 6.7, so that reading the prompt
-- decides: 8.87 + 0.23 + 0.12 + 0.25 = 9.5, and 1.0 for the upscaler and what the allocator cannot reuse. In int8: 12.1. Training at
-- 1024 x 1024 with rank 16 and gradient checkpointing: 5.81 + 0.17 for the LoRA + 2.93 for checkpoints, one block computed again,
-- gradients and AdamW's state, by 0.8 because estimates are rough = 9.64, and 1.1 for the libraries. In int8: 15.0.
update worker.base_models set min_vram_gib = 10.5 where slug in ('flux-dev', 'flux-schnell') and min_vram_gib = 24.5;
update worker.base_models set min_training_vram_gib = 10.75 where slug = 'flux-dev' and min_training_vram_gib = 27;

-- FLUX.2 klein: the transformer takes 3.79 GiB in int8 and 2.13 in nf4, Qwen3 7.49. Reading prompts and captions decides for drawing and
-- training: 7.49 + 0.12 + 0.25 = 7.9, and 1.1 more, as above. Drawing takes 3.7 in nf4 and 5.4 in int8, training with rank 32
-- 2.13 + 0.17 + 2.25 / 0.8 = 5.1 in nf4 and 6.8 in int8.
update worker.base_models set min_vram_gib = 9 where slug = 'klein' and min_vram_gib = 9.5;
update worker.base_models set min_vram_gib = 9 where slug = 'klein-base' and min_vram_gib = 10;
update worker.base_models set min_training_vram_gib = 9 where slug = 'klein-base' and min_training_vram_gib = 11;

-- SDXL: the U-Net takes 2.75 GiB in int8 and 1.76 in nf4, in which only the layers of its transformer blocks are quantised. Drawing
-- 1024 x 1024 in nf4: 1.76 + 0.02 + 0.31 for a step with guidance + 0.16 for a LoRA + 0.25 = 2.5, and 1.5 more, as above and for
-- decoding, which takes 1.9 alone. Training with rank 32: 1.76 + 0.32 + 1.57 / 0.8 = 4.0, and 1.9 more, as in 0015_sdxl.sql.
update worker.base_models set min_vram_gib = 4 where slug = 'sdxl' and min_vram_gib = 6.5;
update worker.base_models set min_training_vram_gib = 6 where slug = 'sdxl' and min_training_vram_gib = 8.5;

-- Z-Image: the transformer takes 5.75 GiB in int8 and 2.98 in nf4, Qwen3 7.49, which decides as above: 7.9, and 1.1 more. Drawing takes
-- 4.4 in nf4 and 7.1 in int8; training with rank 32 takes 2.98 + 0.32 + 3.57 / 0.8 = 7.8 in nf4 and 10.5 in int8.
update worker.base_models set min_vram_gib = 9 where slug = 'z-image' and min_vram_gib = 14;
update worker.base_models set min_vram_gib = 9 where slug = 'z-image-turbo' and min_vram_gib = 13.5;
update worker.base_models set min_training_vram_gib = 9 where slug = 'z-image' and min_training_vram_gib = 17.5;
