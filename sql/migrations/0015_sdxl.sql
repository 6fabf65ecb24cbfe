-- SDXL 1.0 as a base model.

-- In 16 bits its parts take 6.46 GiB (U-Net 4.78, text encoders 0.23 and 1.29, VAE 0.16), and take turns on a small GPU. To generate
-- 1024 x 1024: 4.78 + 0.16 for the VAE that stays + 0.31 for a step with guidance + 0.05 for the upscaler = 5.3, and 1.2 more for the
-- libraries' workspaces. Decoding needs 1.5, but without the U-Net. To train at 1024 x 1024 with gradient checkpointing: 4.78 + 0.6
-- for the activations + 1.27 for a LoRA of 85 million weights (rank 32) in float32 with gradients and AdamW's state = 6.65, and 1.85
-- more for workspaces and what the allocator cannot reuse.

insert into worker.base_models
  (slug, family, capabilities, sizes, defaults, min_vram_gib, min_training_vram_gib, licence, commercial_use) values
  ('sdxl', 'sdxl', '{train,lora}', '{1024x1024,832x1216,1216x832}',
   '{"steps": 30, "guidance": 5, "width": 1024, "height": 1024}', 6.5, 8.5, 'CreativeML Open RAIL++-M', true)
on conflict (slug) do nothing;  -- an administrator may have added it by hand
