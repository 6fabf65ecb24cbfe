-- Z-Image: the base, which trains and draws, and Turbo, distilled from it to eight steps, which draws. LoRAs of either fit both.

-- In bfloat16: text encoder Qwen3-4B 7.49 GiB, transformer 11.46, VAE 0.16. The parts take turns on a small GPU. To generate
-- 1024 x 1024: 11.46 + 0.16 + 0.52 for the work of a step + 0.25 for the libraries' workspaces = 12.4, and twice the work where
-- guidance counts a second row = 12.9; the upscaler and what the allocator cannot reuse take 1.1 more. Reading the prompt needs 7.9
-- and decoding 1.9, without the transformer. To train at 1024 x 1024 with rank 32: 11.46 + 0.32 for the LoRA + 4.4 for the
-- checkpoints, one block computed again, gradients and AdamW's state = 16.2, and 1.3 more, as above.

insert into worker.base_models
  (slug, family, train_base, capabilities, sizes, defaults, min_vram_gib, min_training_vram_gib, licence, commercial_use) values
  ('z-image', 'z-image', null, '{train,lora}', '{1024x1024,832x1216,1216x832}',
   '{"steps": 50, "guidance": 4, "width": 1024, "height": 1024}', 14, 17.5, 'Apache-2.0', true),
  ('z-image-turbo', 'z-image', 'z-image', '{lora}', '{1024x1024,832x1216,1216x832}',
   '{"steps": 8, "guidance": 0, "width": 1024, "height": 1024}', 13.5, null, 'Apache-2.0', true)
on conflict (slug) do nothing;  -- an administrator may have added it by hand
