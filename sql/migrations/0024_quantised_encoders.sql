-- What base models need where a pod quantises text encoders too, and streams the blocks of a denoiser that does not fit in nf4 either.
-- Computed at the published geometry (tests/ml/test_plans.py), not measured on a GPU. Only figures that are still the published ones
-- change.

-- FLUX.1: T5 takes 2.47 GiB in nf4. Reading the prompt decides for drawing: 2.47 + 0.23 for CLIP + 0.08 for a layer's weights made wide
-- + 0.12 + 0.25 for workspaces = 3.15, and 1.35 for the upscaler and what the allocator cannot reuse. The transformer takes less with
-- its blocks streamed: 0.75 in int8 with two blocks on the device + 0.11 + 0.46 + 0.08 for a LoRA + 0.25 = 1.65; from 7.2 free it is
-- whole in nf4. Training needs 9.64 as before: what is streamed cannot be trained.
update worker.base_models set min_vram_gib = 4.5 where slug in ('flux-dev', 'flux-schnell') and min_vram_gib = 10.5;

-- FLUX.2 klein and Z-Image: Qwen3 takes 2.47 GiB in nf4, and reading the prompt 2.9, and 1.1 more, as above. The transformers take less
-- streamed. Training klein takes 5.1 in nf4, and 1.15 more.
update worker.base_models set min_vram_gib = 4 where slug in ('klein', 'klein-base', 'z-image', 'z-image-turbo') and min_vram_gib = 9;
update worker.base_models set min_training_vram_gib = 6.25 where slug = 'klein-base' and min_training_vram_gib = 9;
