-- A base model needs more GPU memory to train than to generate, and only memory that is free counts. Until here, min_vram_gib was
-- the memory printed on the card, for both.

alter table worker.base_models add column min_training_vram_gib real;

-- Only rows that still have the published figure; an operator who set another one keeps it, for both.

-- FLUX.1 in bfloat16: transformer 22.17 GiB, T5 8.87, CLIP 0.23, VAE 0.16. The parts take turns on a small GPU, so the transformer
-- decides, with the VAE that stays. To generate 1024 x 1024: 22.17 + 0.16 + 0.46 for the work of a step + 0.05 for the upscaler =
-- 22.84, and 1.6 more for the libraries' workspaces and what the allocator cannot reuse. Decoding needs 1.5, but without the
-- transformer. To train at 1024 x 1024 (4,608 tokens, gradient checkpointing): 22.17 + 1.5 for the checkpoints + 1.2 for one block
-- computed again and its gradients + 1.0 for a LoRA of up to 65 million parameters in float32 with gradients and AdamW's state = 25.9,
-- and 1.1 more, as above. flux-schnell generates only.
update worker.base_models set min_vram_gib = 24.5, min_training_vram_gib = 27 where slug = 'flux-dev' and min_vram_gib = 24;
update worker.base_models set min_vram_gib = 24.5 where slug = 'flux-schnell' and min_vram_gib = 24;

-- Stable Diffusion 1.5 in 16 bits: 2.0 GiB (UNet 1.60, text encoder 0.23, VAE 0.16). To generate, 1.5 for the largest step, which is
-- decoding with the workspaces of convolutions, and 0.5 for the libraries and the upscaler. To train, as in 0004_sd15.
update worker.base_models set min_vram_gib = 4, min_training_vram_gib = 6 where slug = 'sd15' and min_vram_gib = 6;
