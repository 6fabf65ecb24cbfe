-- FLUX.2 klein 4B: the base, which is trained, and the one distilled from it, which draws in four steps. LoRAs of either fit both.

-- In bfloat16: text encoder Qwen3-4B 7.49 GiB, transformer 7.22, VAE 0.16. The parts take turns on a small GPU. To generate
-- 1024 x 1024: 7.22 + 0.16 + 0.58 for the work of a step + 0.25 for the libraries' workspaces = 8.2, and twice the work where guidance
-- counts a second row = 8.8; the upscaler and what the allocator cannot reuse take 1.2 more. Reading the prompt needs 7.9 and decoding
-- 1.9, without the transformer. To train at 1024 x 1024 with rank 32: 7.22 + 0.17 for the LoRA + 2.6 for the checkpoints, one block
-- computed again, gradients and AdamW's state = 10.0, and 1.0 more, as above.

insert into worker.base_models
  (slug, family, train_base, capabilities, sizes, defaults, min_vram_gib, min_training_vram_gib, licence, commercial_use) values
  ('klein-base', 'klein', null, '{train,lora}', '{1024x1024,832x1216,1216x832}',
   '{"steps": 50, "guidance": 4, "width": 1024, "height": 1024}', 10, 11, 'Apache-2.0', true),
  ('klein', 'klein', 'klein-base', '{lora}', '{1024x1024,832x1216,1216x832}',
   '{"steps": 4, "guidance": 1, "width": 1024, "height": 1024}', 9.5, null, 'Apache-2.0', true)
on conflict (slug) do nothing;  -- an operator may have added it by hand
