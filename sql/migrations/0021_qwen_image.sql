-- Qwen-Image, which trains and draws. Its text encoder is Qwen2.5-VL-7B, of which only the language model is loaded.

-- In bfloat16: language model 13.17 GiB, transformer 38.05 (int8 19.09, nf4 9.88), VAE 0.24. The parts take turns on a small GPU, and
-- the figures are for nf4, computed at the published geometry (tests/ml/test_plans.py). To generate 1328 x 1328 the transformer decides:
-- 9.88 + 0.11 for a layer's weights made wide + 1.25 for two rows + 0.25 for the libraries' workspaces = 11.5, and 1.25 more for the
-- upscaler and what the allocator cannot reuse; reading the prompt in int8 takes 7.9, decoding 6.2. To train at 1024 x 1024 with rank
-- 16: 9.88 + 0.55 for the LoRA + 4.2 for checkpoints, one block computed again, gradients and AdamW's state, by 0.8 because estimates
-- are rough = 15.7, and 1.3 more, as above.

insert into worker.base_models
  (slug, family, train_base, capabilities, sizes, defaults, min_vram_gib, min_training_vram_gib, licence, commercial_use) values
  ('qwen-image', 'qwen-image', null, '{train,lora}',
   '{1328x1328,1664x928,928x1664,1472x1104,1104x1472,1584x1056,1056x1584,1024x1024}',
   '{"steps": 50, "guidance": 4, "width": 1328, "height": 1328}', 12.75, 17, 'Apache-2.0', true)
on conflict (slug) do nothing;  -- an administrator may have added it by hand
