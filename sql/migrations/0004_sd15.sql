-- Stable Diffusion 1.5. In bfloat16 its parts take 2 GiB; training at 512 pixels without checkpointing keeps 1 GiB more.

insert into worker.base_models (slug, family, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use) values
  ('sd15', 'sd15', '{train,lora}', '{512x512,512x768,768x512}',
   '{"steps": 30, "guidance": 7.5, "width": 512, "height": 512}', 6, 'CreativeML Open RAIL-M', true)
on conflict (slug) do nothing;  -- somebody may have added it by hand
