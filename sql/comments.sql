-- What each column means. `\d+` shows it, Supabase's table editor too, and docs/reference/tables.md is made from it.

-- ---------------------------------------------------------------------------------------------- what an installation is

comment on column worker.config.singleton is 'There is one row.';
comment on column worker.config.default_base is 'The base of a job that names none and has no LoRA to go by.';
comment on column worker.config.open_jobs_per_owner is 'More queued and running jobs of one owner are refused with PT429 (HTTP 429).';
comment on column worker.config.bucket_uploads is 'The bucket of photographs and pictures; BUCKET_UPLOADS of every pod must agree.';
comment on column worker.config.bucket_models is 'The bucket of LoRAs and base models; BUCKET_MODELS of every pod must agree.';
comment on column worker.config.keep_logs_for is 'Older rows of job_events and of the queue''s log are deleted.';

comment on column worker.job_kinds.kind is 'What cancel_job, retry_job and WORKER_KINDS call it.';
comment on column worker.job_kinds.table_name is 'Where requests of the kind are inserted.';
comment on column worker.job_kinds.purpose is 'What every person in the job must have agreed to; NULL: no consent is needed.';
comment on column worker.job_kinds.subject_required is 'Whether a request without subject_id is refused.';
comment on column worker.job_kinds.slot is 'gpu: one at a time on a pod; light: beside the GPU''s work.';
comment on column worker.job_kinds.max_runtime is 'The limit of an attempt whose request names none.';
comment on column worker.job_kinds.paused is 'Nothing of the kind is started; what runs goes on.';
comment on column worker.job_kinds.package is 'The package that brings the kind; NULL: it is one of the core''s.';
comment on column worker.job_kinds.hooks is 'The hooks it has, worker.{kind}__{hook}, as the catalog had them when it was registered.';
comment on column worker.job_kinds.uses_base is 'Whether its jobs run on a base model: their route is kind/base then, else the kind alone.';
comment on column worker.job_kinds.table_missing_since is 'Since when its table is gone; the kind is skipped meanwhile.';

comment on column worker.kind_policies.kind is 'The kind of job.';
comment on column worker.kind_policies.policy_name is 'The policy''s name, a sentence.';
comment on column worker.kind_policies.command is 'select or insert, for authenticated.';
comment on column worker.kind_policies.condition is 'Which rows.';

comment on column worker.kind_grants.kind is 'The kind of job.';
comment on column worker.kind_grants.privilege is 'execute or select.';
comment on column worker.kind_grants.object is 'The function with its argument types, or the table or view.';
comment on column worker.kind_grants.grantee is 'authenticated, service_role or likeness_worker.';

comment on column worker.kind_versions.package is 'The installed package.';
comment on column worker.kind_versions.name is 'The file''s name without .sql.';
comment on column worker.kind_versions.checksum is 'SHA-256 of its text when it was applied.';
comment on column worker.kind_versions.applied_at is 'When it was last applied.';

comment on column worker.package_objects.package is 'The installed package.';
comment on column worker.package_objects.object is 'What it created, as worker.catalog_objects() names it.';

comment on column worker.base_models.slug is 'The folder under MODELS_DIR and under models/base/ in the model bucket.';
comment on column worker.base_models.family is 'LoRAs fit every base of their family.';
comment on column worker.base_models.train_base is 'Where this base only serves: the one of its family that is trained.';
comment on column worker.base_models.capabilities is 'train, lora, ip_adapter, control:KIND. A request for anything else is refused when it is inserted.';
comment on column worker.base_models.sizes is 'Sizes in pixels that the base draws best, as WIDTHxHEIGHT.';
comment on column worker.base_models.defaults is 'What a request gets that leaves it open: steps, guidance, width, height; under training: steps, rank, learning_rate, resolution, batch_size, preservation.';
comment on column worker.base_models.min_vram_gib is 'Pods with less GPU memory do not offer the base; 0: a CPU will do.';
comment on column worker.base_models.licence is 'The licence of the weights, as their publisher calls it.';
comment on column worker.base_models.commercial_use is 'Whether that licence allows commercial use without another agreement.';

comment on column worker.pods.id is 'Made anew by each process.';
comment on column worker.pods.name is 'WORKER_NAME of the pod.';
comment on column worker.pods.routes is 'What it takes now: kind/base, or the kind alone.';
comment on column worker.pods.vram_gib is 'Memory of its GPU; NULL on a CPU.';
comment on column worker.pods.models_present is 'Models within its reach: on its disk or in the bucket.';
comment on column worker.pods.has_lock is 'Whether its session connection holds the advisory lock that says it lives.';
comment on column worker.pods.version is 'The release of the worker.';
comment on column worker.pods.registered_at is 'When it came.';
comment on column worker.pods.last_heartbeat is 'A pod that is silent for 30 s is considered dead.';
comment on column worker.pods.lock_free_since is 'Since when its lock is free; 1.5 s later it is considered dead, unless a heartbeat came.';

comment on column worker.clock.singleton is 'There is one row.';
comment on column worker.clock.last_tick is 'When housekeeping last ran.';
comment on column worker.clock.grace_from is 'No silence before this time counts against a pod.';

comment on column worker.schema_versions.name is 'The file''s name without .sql.';
comment on column worker.schema_versions.checksum is 'SHA-256 of its text when it was applied.';
comment on column worker.schema_versions.applied_at is 'When it was last applied.';

comment on column worker.policies.schema_name is 'Schema of the policy''s table.';
comment on column worker.policies.table_name is 'The policy''s table.';
comment on column worker.policies.policy_name is 'The policy''s name, a sentence.';
comment on column worker.policies.definition is 'The policy as this project writes it.';
comment on column worker.policies.catalog_definition is 'The policy as the catalog gave it back.';

-- ------------------------------------------------------------------------------------------------------------- people

comment on column public.subjects.id is 'Settable by the client.';
comment on column public.subjects.owner_id is 'The user it belongs to; NULL once that account was deleted, which takes consent back.';
comment on column public.subjects.name is 'For the app''s own use; no job, file or log carries it.';
comment on column public.subjects.trigger_word is 'The word that calls the person up in a prompt; made when it is left open.';
comment on column public.subjects.subject_is_adult is 'Stated by whoever made the subject or granted consent. Only adults can agree.';
comment on column public.subjects.consent_status is 'pending, approved, rejected or revoked.';
comment on column public.subjects.consent_purposes is 'What the person agreed to: training, generation.';
comment on column public.subjects.consent_expires_at is 'Consent ends then by itself; NULL: it does not.';
comment on column public.subjects.erased_at is 'When the person''s data was erased.';
comment on column public.subjects.created_at is 'When the row was inserted.';

comment on column public.subject_photos.id is 'Settable by the client.';
comment on column public.subject_photos.subject_id is 'Whose photograph it is.';
comment on column public.subject_photos.path is 'The object''s key, under {owner_id}/{subject_id}/photos/.';
comment on column public.subject_photos.caption is 'What the photograph shows beside the person; used in training.';
comment on column public.subject_photos.status is 'new, accepted or rejected; rejected ones are not trained on.';
comment on column public.subject_photos.reason is 'Why it was rejected.';
comment on column public.subject_photos.prepared_path is 'Reserved for photo checks.';
comment on column public.subject_photos.width is 'Reserved for photo checks.';
comment on column public.subject_photos.height is 'Reserved for photo checks.';
comment on column public.subject_photos.face is 'Reserved for photo checks.';
comment on column public.subject_photos.sha256 is 'Reserved for photo checks.';
comment on column public.subject_photos.phash is 'Reserved for photo checks.';
comment on column public.subject_photos.created_at is 'When the row was inserted.';

comment on table public.subjects_models is 'Trained LoRAs. A request that names none takes the subject''s newest unretired one of its base, else of its base''s family.';
comment on column public.subjects_models.id is 'What model_ids of a generation job names.';
comment on column public.subjects_models.subject_id is 'The person or product; NULL only for a LoRA that shows nobody.';
comment on column public.subjects_models.job_id is 'The training job that made it.';
comment on column public.subjects_models.version is 'Counts up for each subject and family.';
comment on column public.subjects_models.base is 'The base it was trained on.';
comment on column public.subjects_models.family is 'The bases it fits.';
comment on column public.subjects_models.path is 'The object''s key in the models bucket.';
comment on column public.subjects_models.sha256 is 'Checked before the file is loaded.';
comment on column public.subjects_models.rank is 'The LoRA''s rank.';
comment on column public.subjects_models.trigger_word is 'The word that calls the person up.';
comment on column public.subjects_models.metrics is 'steps, final_loss, photos and the like.';
comment on column public.subjects_models.created_at is 'When it was published.';
comment on column public.subjects_models.retired_at is 'Set to keep it from being taken by requests that name no LoRA.';

comment on column public.presets.id is 'What preset_id of a job names.';
comment on column public.presets.owner_id is 'The user it belongs to; NULL: everybody''s.';
comment on column public.presets.name is 'For the app''s own use.';
comment on column public.presets.kind is 'The kind of job it is for.';
comment on column public.presets.prompt is '{prompt} stands for the request''s prompt, {trigger} for the trigger word.';
comment on column public.presets.negative_prompt is 'Joined with the request''s own.';
comment on column public.presets.settings is 'Columns to fill where the request leaves them open: width, height, steps, guidance, rank, learning_rate, resolution, class_name.';
comment on column public.presets.created_at is 'When the row was inserted.';

-- --------------------------------------------------------------------------------------------------------------- jobs

comment on column worker.life_cycle.owner_id is 'Who asked: the subject''s owner, else the signed-in user.';
comment on column worker.life_cycle.subject_id is 'The person or product it is about.';
comment on column worker.life_cycle.status is 'queued, running, completed, failed or cancelled.';
comment on column worker.life_cycle.max_failures is 'The job ends as failed when failures gets here.';
comment on column worker.life_cycle.priority is 'Higher goes first.';
comment on column worker.life_cycle.max_runtime is 'A longer attempt ends as timeout. Left open, its kind''s.';
comment on column worker.life_cycle.progress is 'From 0 to 1.';
comment on column worker.life_cycle.phase is 'What it is doing, or waiting for, in words for a person.';
comment on column worker.life_cycle.cancel_code is 'cancelled, or consent_denied after a revocation.';
comment on column worker.life_cycle.error_code is 'How it went wrong; see the error codes.';
comment on column worker.life_cycle.error is 'The same in words for the app''s user.';
comment on column worker.life_cycle.result is 'What came of it: keys, sizes, seed, settings used.';
comment on column worker.life_cycle.metrics is 'The last report''s: step, loss, learning rate, seconds.';
comment on column worker.life_cycle.pod_id is 'The pod that runs it, or ran it last.';
comment on column worker.life_cycle.created_at is 'When the request was inserted.';
comment on column worker.life_cycle.started_at is 'When the last attempt started.';
comment on column worker.life_cycle.finished_at is 'When it ended; NULL while it is open.';

-- LIKE copied the columns once; what they mean is said in one place.
do $$
declare
  v_column record;
begin
  for v_column in
    select kinds.table_name, template.attname, col_description(template.attrelid, template.attnum) as meaning
    from (select table_name from worker.live_kinds() union select 'worker.job_details') kinds
    join pg_catalog.pg_attribute template on template.attrelid = 'worker.life_cycle'::regclass and template.attnum > 0
    join pg_catalog.pg_attribute own on own.attrelid = kinds.table_name::regclass and own.attname = template.attname
    where not template.attisdropped and not own.attisdropped
  loop
    execute format('comment on column %s.%I is %L', v_column.table_name, v_column.attname, v_column.meaning);
  end loop;
end $$;

comment on column public.training_jobs.base is 'The base to train on. Left open, worker.config.default_base.';
comment on column public.training_jobs.preset_id is 'A preset of one''s own or everybody''s.';
comment on column public.training_jobs.sample_paths is 'Keys of the photographs to use; NULL: all of the subject''s that are not rejected.';
comment on column public.training_jobs.trigger_word is 'Left open, the subject''s.';
comment on column public.training_jobs.class_name is
  'What stands for the trigger word when the LoRA is taught to leave others as they are: "a person" where it is left open, else say "a woman" or "a mug".';
comment on column public.training_jobs.steps is 'Left open, the family''s own number for so many photographs.';
comment on column public.training_jobs.rank is 'Rank of the LoRA. Left open, the family''s default.';
comment on column public.training_jobs.learning_rate is 'Left open, the family''s default.';
comment on column public.training_jobs.resolution is 'Train on photographs of this size, in pixels. Left open, the family''s default sizes.';
comment on column public.training_jobs.seed is 'Left open, one that is the job''s own.';

comment on column public.generation_jobs.base is 'The base to draw with. Left open, that of the LoRA, else worker.config.default_base.';
comment on column public.generation_jobs.preset_id is 'A preset of one''s own or everybody''s.';
comment on column public.generation_jobs.prompt is 'What to draw. The trigger word is added where it is missing.';
comment on column public.generation_jobs.negative_prompt is 'What not to draw, where the base can use it.';
comment on column public.generation_jobs.model_ids is 'The LoRAs to use; NULL: the subject''s newest of the base, else the newest of its family.';
comment on column public.generation_jobs.lora_scales is 'The strength of each of model_ids; left open, 1.';
comment on column public.generation_jobs.reference_paths is 'Reserved: keys of pictures to go by.';
comment on column public.generation_jobs.reference_scale is 'Reserved: the strength of the references.';
comment on column public.generation_jobs.control_path is 'Reserved: the key of a picture that gives pose or outline.';
comment on column public.generation_jobs.control_kind is 'Reserved: what control_path shows.';
comment on column public.generation_jobs.control_scale is 'Reserved: the strength of the control.';
comment on column public.generation_jobs.width is 'In pixels, before upscaling. Left open, the base''s default.';
comment on column public.generation_jobs.height is 'In pixels, before upscaling. Left open, the base''s default.';
comment on column public.generation_jobs.steps is 'Left open, the base''s default.';
comment on column public.generation_jobs.guidance is 'How closely to follow the prompt. Left open, the base''s default.';
comment on column public.generation_jobs.seed is 'The same seed draws the same picture. Left open, one that is the job''s own.';
comment on column public.generation_jobs.num_images is 'How many pictures to draw.';
comment on column public.generation_jobs.upscale is 'Every picture is upscaled, by 2 or 4.';
comment on column public.generation_jobs.quality is 'Of JPEG and WebP files, 1 to 100.';
comment on column public.generation_jobs.output_format is 'png, jpeg or webp.';

comment on column worker.internal_jobs.payload is 'What the job is about.';

comment on column worker.job_subjects.kind is 'The job''s kind.';
comment on column worker.job_subjects.job_id is 'The job.';
comment on column worker.job_subjects.subject_id is 'A person it touches.';

comment on column worker.job_events.id is 'In the order in which it happened.';
comment on column worker.job_events.kind is 'The job''s kind.';
comment on column worker.job_events.job_id is 'The job.';
comment on column worker.job_events.attempt is 'The attempt it happened to; 0 before the first.';
comment on column worker.job_events.at is 'When.';
comment on column worker.job_events.event is
  'refused: at INSERT, for lack of consent or for its words. started: an attempt began. phase: what it does now. checkpoint: training can go on from here. requeued: back on the queue, code says why. cancel_requested: the running attempt was told to stop. retried: put back by retry_job. completed, failed, cancelled: the job ended.';
comment on column worker.job_events.detail is 'pod, phase, step, code, error: what goes with the event.';

comment on column worker.staged_objects.id is 'What mark_objects_deleted names.';
comment on column worker.staged_objects.bucket is 'The bucket.';
comment on column worker.staged_objects.key is 'The object''s key; it names the attempt.';
comment on column worker.staged_objects.kind is 'The job''s kind.';
comment on column worker.staged_objects.job_id is 'The job.';
comment on column worker.staged_objects.attempt is 'The attempt that writes it.';
comment on column worker.staged_objects.owner_id is 'Whose job it is; clients see their own published objects.';
comment on column worker.staged_objects.state is 'staged, checkpoint, published or deleting.';
comment on column worker.staged_objects.step is 'The training step of a checkpoint.';
comment on column worker.staged_objects.created_at is 'When it was registered.';
comment on column worker.staged_objects.deletions is 'How often it was deleted in storage; late uploads are why once is not enough.';
comment on column worker.staged_objects.offer_after is 'When to delete it (again).';

-- ------------------------------------------------------------------------------------------------------ consent ledger

comment on column worker.consent_events.id is 'In the order in which it was written.';
comment on column worker.consent_events.subject_id is 'The person; no foreign key.';
comment on column worker.consent_events.event is 'grant, reject, revoke, expiry, refusal or erasure.';
comment on column worker.consent_events.purposes is 'What was granted, or what a refused job wanted.';
comment on column worker.consent_events.expires_at is 'When the grant ends.';
comment on column worker.consent_events.reason is 'Words of our own; never what somebody typed.';
comment on column worker.consent_events.evidence_digest is 'SHA-256 of the evidence, or of the reason that was given.';
comment on column worker.consent_events.job_kind is 'Of a refusal: the kind of the job.';
comment on column worker.consent_events.job_id is 'Of a refusal: the job.';
comment on column worker.consent_events.actor is 'The signed-in user, else the role of the session.';
comment on column worker.consent_events.at is 'When.';

-- -------------------------------------------------------------------------------------------------------------- views

comment on column worker.jobs.id is 'The job.';
comment on column worker.jobs.kind is 'Its kind.';
comment on column worker.jobs.status is 'queued, running, completed, failed or cancelled.';
comment on column worker.jobs.try is 'The attempt.';
comment on column worker.jobs.done is 'Progress in per cent.';
comment on column worker.jobs.note is 'The error code, else the phase, cut to 24 characters.';
comment on column worker.jobs.created is 'When it was inserted.';

comment on column worker.queue_depth.route is 'kind/base, or the kind alone.';
comment on column worker.queue_depth.waiting is 'Jobs that wait.';
comment on column worker.queue_depth.oldest is 'How long the oldest has waited.';
comment on column worker.queue_depth.running is 'Jobs that a pod has taken.';
comment on column worker.queue_depth.pods is 'Live pods that offer the route.';

comment on column worker.job_details.kind is 'Its kind.';
comment on column worker.job_details.request is 'What was asked for: the columns that are its kind''s own, without those left open.';

comment on column worker.stranded_jobs.kind is 'The job''s kind.';
comment on column worker.stranded_jobs.id is 'The job.';
comment on column worker.stranded_jobs.route is 'kind/base, or the kind alone.';
comment on column worker.stranded_jobs.since is 'When it was put on the queue.';
comment on column worker.stranded_jobs.why is 'What no live pod has.';
