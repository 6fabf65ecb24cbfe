-- What base models need where a pod quantises text encoders too. Computed at the published geometry (tests/ml/test_plans.py), not
-- measured on a GPU. Only figures that are still the published ones change. Pods with less could still draw, with the blocks of the
-- denoiser streamed; whoever wants that lowers the figures.

-- FLUX.1: T5 takes 4.6 GiB in int8 and 2.47 in nf4, so that the transformer decides for drawing: 5.78 in nf4 + 0.11 for a layer's
-- weights made wide + 0.46 for the work of a step + 0.25 for workspaces = 6.6, and 0.9 for the upscaler and what the allocator cannot
-- reuse. Training needs 9.64 as before.
update worker.base_models set min_vram_gib = 7.5 where slug in ('flux-dev', 'flux-schnell') and min_vram_gib = 10.5;

-- FLUX.2 klein and Z-Image: Qwen3 takes 2.47 GiB in nf4, and reading the prompt 2.9. Drawing with two rows in nf4 takes 3.7 for klein
-- and 4.35 for Z-Image, and 0.8 to 0.9 more, as above. Training klein takes 5.1 in nf4, and 1.15 more.
update worker.base_models set min_vram_gib = 4.5 where slug in ('klein', 'klein-base') and min_vram_gib = 9;
update worker.base_models set min_vram_gib = 5.25 where slug in ('z-image', 'z-image-turbo') and min_vram_gib = 9;
update worker.base_models set min_training_vram_gib = 6.25 where slug = 'klein-base' and min_training_vram_gib = 9;
