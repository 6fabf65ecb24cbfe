-- The meaning of each column. `\d+` and Supabase's table editor show it, and docs/reference/tables.md is made from it.

-- --------------------------------------------------------------------------------------------------------- installation

comment on table worker.pgqueuer is 'The queue: one row per open job, entrypoint = route, payload = job id, dedupe_key = kind:id.';
comment on table worker.pgqueuer_log is 'When each queue row was queued, claimed and finished.';
comment on table worker.base_models is
  'What each base model can do. LoRAs fit a family; train_base is set where a base model only generates and another one of its family is trained.';
comment on table worker.pods is 'Live worker processes. A row is deleted when its pod deregisters or is considered dead.';
comment on table worker.clock is 'When jobs of dead pods were last taken over. After a gap (a restart, an outage) every grace period starts again at grace_from.';
comment on table worker.policies is
  'The policies that this project created, as written and as shown in the catalog, so that only those that differ are recreated.';
comment on column worker.screening_rules.asks is 'What it is, in words that do not quote a prompt.';

comment on column worker.config.singleton is 'There is one row.';
comment on column worker.config.default_base is 'The base model of a job that names none and has no LoRA; a training uses its train_base, if it has one.';
comment on column worker.config.open_jobs_per_owner is 'The limit of queued and running jobs of one user; more are refused with PT429 (HTTP 429).';
comment on column worker.config.bucket_uploads is 'The bucket of photos and pictures; BUCKET_UPLOADS of every pod must be the same.';
comment on column worker.config.bucket_models is 'The bucket of LoRAs, and of base models unless MODELS_S3_* name another; BUCKET_MODELS of every pod must be the same.';
comment on column worker.config.bucket_meshes is 'The bucket of 3D models; BUCKET_MESHES of every pod must be the same.';
comment on column worker.config.keep_logs_for is 'How long rows of job_events and of the queue''s log are kept.';

comment on column worker.job_kinds.kind is 'The name that cancel_job, retry_job and WORKER_KINDS use.';
comment on column worker.job_kinds.table_name is 'The table into which requests of the kind are inserted.';
comment on column worker.job_kinds.purpose is 'The purpose to which every person in the job must have consented; NULL: no consent is needed.';
comment on column worker.job_kinds.subject_required is 'True if a request without subject_id is refused.';
comment on column worker.job_kinds.slot is 'gpu: one at a time on a pod; light: runs beside the GPU''s job.';
comment on column worker.job_kinds.max_runtime is 'The limit of an attempt whose request sets none.';
comment on column worker.job_kinds.paused is 'True: no job of the kind is started; running ones continue.';
comment on column worker.job_kinds.package is 'The package that adds the kind; NULL: it is one of the core''s.';
comment on column worker.job_kinds.hooks is 'The hooks of the kind, functions worker.{kind}__{hook}, as found in the catalog when it was registered.';
comment on column worker.job_kinds.uses_base is 'True if its jobs run on a base model: their route is kind/base then, and the guides that a job needs, else the kind alone.';
comment on column worker.job_kinds.table_missing_since is 'When its table was first found missing; the kind is skipped meanwhile.';

comment on column worker.job_kinds.needs_marked_buckets is 'True: its jobs overwrite or delete objects that were never staged, so they wait while worker.storage_hold says so.';

comment on column worker.installation.singleton is 'There is one row.';
comment on column worker.installation.id is 'The installation, as in the markers of its buckets.';
comment on column worker.installation.home is 'What worker.current_home() returned when it was installed, moved or adopted.';
comment on column worker.installation.era is 'What the prefixes of attempts end in; empty until worker installation moved or adopt.';
comment on column worker.installation.nonce is 'The nonce in the markers; NULL until worker storage init.';
comment on column worker.installation.next_nonce is 'The nonce of a renewal in progress.';
comment on column worker.installation.earlier_nonces is 'The nonces of the last hour, newest first: a delayed upload may write one of them again.';
comment on column worker.installation.renewed_at is 'When a renewal was last finished.';
comment on column worker.installation.looked_at is 'When a pod last began to look at the markers for all.';
comment on column worker.installation.server_started_at is 'When the server process had started at the last tick; a copy runs on another one.';
comment on column worker.installation.unsettled_since is 'The last cold start, or the last time that a marker was not seen to be ours before the installation was settled.';

comment on column worker.bucket_markers.bucket is 'The bucket.';
comment on column worker.bucket_markers.state is 'ours, foreign (of another installation or another copy of this database), unmarked or unreadable.';
comment on column worker.bucket_markers.detail is 'The installation that a marker names, or why it cannot be read.';
comment on column worker.bucket_markers.seen_at is 'When it was last looked at.';

comment on column worker.kind_policies.kind is 'The kind of job.';
comment on column worker.kind_policies.policy_name is 'The policy''s name, a sentence.';
comment on column worker.kind_policies.command is 'select or insert, for authenticated.';
comment on column worker.kind_policies.condition is 'The rows that it allows, as a SQL condition.';

comment on column worker.kind_grants.kind is 'The kind of job.';
comment on column worker.kind_grants.privilege is 'execute or select.';
comment on column worker.kind_grants.object is 'The function with its argument types, or the table or view.';
comment on column worker.kind_grants.grantee is 'authenticated, service_role or likeness_worker.';

comment on column worker.kind_versions.package is 'The installed package.';
comment on column worker.kind_versions.name is 'The file''s name without .sql.';
comment on column worker.kind_versions.checksum is 'SHA-256 of its text when it was applied.';
comment on column worker.kind_versions.applied_at is 'When it was last applied.';

comment on column worker.package_objects.package is 'The installed package.';
comment on column worker.package_objects.object is 'The name of an object that it created, as in worker.catalog_objects().';

comment on column worker.base_models.slug is 'The name of its folder under MODELS_DIR, and under models/base/ in the model bucket.';
comment on column worker.base_models.family is 'LoRAs fit every base model of their family.';
comment on column worker.base_models.train_base is 'The base model of the family to train on, where this one only generates.';
comment on column worker.base_models.capabilities is 'train, lora, reference, control:KIND, mesh. A request for any other is refused at INSERT, but detect:KIND. What no guide of the family gives is built in.';
comment on column worker.base_models.only_for is 'The capability without which no job can use it, because it can do nothing else; NULL: any job can whose capabilities it has.';
comment on column worker.base_models.weights_of is 'The base model whose weights it has, in whose folder they are; NULL: in its own. The guide that makes it another one names it in bases.';
comment on column worker.base_models.sizes is 'Sizes in pixels at which the base model generates best, as WIDTHxHEIGHT.';
comment on column worker.base_models.defaults is 'Settings for what a request leaves open: steps, guidance, width, height, sampler, clip_skip; under training: steps, rank, learning_rate, resolution, batch_size, preservation.';
comment on column worker.base_models.min_vram_gib is 'GiB of GPU memory that must be free for a pod to offer the base model; 0: a CPU is enough.';
comment on column worker.base_models.min_training_vram_gib is 'The same for kinds that need the capability train; NULL: as much as min_vram_gib.';
comment on column worker.base_models.licence is 'The licence of the weights, as their publisher names it.';
comment on column worker.base_models.commercial_use is 'True if that licence allows commercial use without another agreement.';

comment on column worker.guides.slug is 'The name of its folder under MODELS_DIR, and under models/base/ in the model bucket.';
comment on column worker.guides.family is 'The family of the base models that it steers.';
comment on column worker.guides.capabilities is 'What it gives: reference, control:KIND, or detect:KIND, which makes the map for control:KIND of a photo. A network for several kinds lists them all.';
comment on column worker.guides.vram_gib is 'GiB of GPU memory that it needs besides its base model.';
comment on column worker.guides.bases is 'The base models that it is for, which then use no other guide for the same; NULL: all of its family.';
comment on column worker.guides.licence is 'The licence of the weights, as their publisher names it.';
comment on column worker.guides.commercial_use is 'True if that licence allows commercial use without another agreement.';

comment on column worker.pods.id is 'New for each process.';
comment on column worker.pods.name is 'WORKER_NAME of the pod.';
comment on column worker.pods.routes is 'The routes that it offers now: kind/base, kind/base+guide, or the kind alone.';
comment on column worker.pods.vram_gib is 'GiB of GPU memory that were free when its GPU process started (pods of 0.1.0: the total); NULL on a CPU, or while that starts.';
comment on column worker.pods.models_present is 'Models on its disk or in the bucket.';
comment on column worker.pods.has_lock is 'True if its session connection holds the advisory lock that shows it is alive.';
comment on column worker.pods.version is 'The release of the worker.';
comment on column worker.pods.registered_at is 'When it registered first.';
comment on column worker.pods.last_heartbeat is 'A pod without a heartbeat for worker.timing(''pod_silent'') is considered dead.';
comment on column worker.pods.lock_free_since is 'Since when its lock is free; after worker.timing(''pod_lock_free'') without a heartbeat it is considered dead.';

comment on column worker.clock.singleton is 'There is one row.';
comment on column worker.clock.last_tick is 'When take_over last ended.';
comment on column worker.clock.grace_from is 'Silence before this time does not count against a pod.';

comment on table worker.housekeeping is 'One row: how far the housekeeping has come. Whoever locks it does the housekeeping.';
comment on column worker.housekeeping.singleton is 'There is one row.';
comment on column worker.housekeeping.next_run is 'When run_housekeeping is due again; NULL: at once, because it left something for the next time.';
comment on column worker.housekeeping.queue_id is 'The queue row up to which reconcile has compared the queue with the jobs; 0: it begins again.';
comment on column worker.housekeeping.job_ids is 'The same for the queued jobs, by kind; none: it begins again.';
comment on column worker.housekeeping.people_checked_to is 'The last subject whose owner''s account was looked at; NULL: begin at the first.';

comment on table worker.lora_copies is 'One row per subject whose LoRA was copied: whoever locks it makes or deletes the convenience copy.';
comment on column worker.lora_copies.subject_id is 'The subject; not a reference, so that its row is not locked.';

comment on column worker.schema_versions.name is 'The file''s name without .sql.';
comment on column worker.schema_versions.checksum is 'SHA-256 of its text when it was applied.';
comment on column worker.schema_versions.applied_at is 'When it was last applied.';

comment on column worker.policies.schema_name is 'Schema of the policy''s table.';
comment on column worker.policies.table_name is 'The policy''s table.';
comment on column worker.policies.policy_name is 'The policy''s name, a sentence.';
comment on column worker.policies.definition is 'The policy as written in this project.';
comment on column worker.policies.catalog_definition is 'The policy as shown in the catalog after it was created.';

-- ------------------------------------------------------------------------------------------------------------- people

comment on column public.subjects.id is 'Settable by the client.';
comment on column public.subjects.owner_id is 'The user it belongs to; NULL once that account was deleted, which revokes consent.';
comment on column public.subjects.name is 'For the app''s own use; never part of a job, file or log.';
comment on column public.subjects.trigger_word is 'The word that stands for the person in a prompt; filled in when it is left open.';
comment on column public.subjects.subject_is_adult is 'Confirmed when the subject was inserted or consent was granted. Only adults can consent.';
comment on column public.subjects.consent_status is 'pending, approved, rejected or revoked.';
comment on column public.subjects.consent_purposes is 'The purposes to which the person consented: training, generation.';
comment on column public.subjects.consent_expires_at is 'When consent ends; NULL: it does not expire.';
comment on column public.subjects.erased_at is 'When the person''s data was erased.';
comment on column public.subjects.created_at is 'When the row was inserted.';

comment on table public.subject_photos is 'Photos in the uploads bucket, under {owner_id}/{subject_id}/photos/.';
comment on column public.subject_photos.id is 'Settable by the client.';
comment on column public.subject_photos.subject_id is 'The subject it shows.';
comment on column public.subject_photos.path is 'The object''s key, under {owner_id}/{subject_id}/photos/.';
comment on column public.subject_photos.caption is 'What the photo shows beside the person; used in training.';
comment on column public.subject_photos.status is 'new, accepted or rejected; rejected photos are not used for training.';
comment on column public.subject_photos.reason is 'Why it was rejected.';
comment on column public.subject_photos.prepared_path is 'Reserved for photo checks.';
comment on column public.subject_photos.width is 'Reserved for photo checks.';
comment on column public.subject_photos.height is 'Reserved for photo checks.';
comment on column public.subject_photos.face is 'Reserved for photo checks.';
comment on column public.subject_photos.sha256 is 'Reserved for photo checks.';
comment on column public.subject_photos.phash is 'Reserved for photo checks.';
comment on column public.subject_photos.created_at is 'When the row was inserted.';

comment on table public.subjects_models is 'Trained LoRAs. A request that names none uses the subject''s newest unretired LoRA of the base model, else of its family.';
comment on column public.subjects_models.id is 'The id for model_ids of a generation job.';
comment on column public.subjects_models.subject_id is 'The person or product; NULL only for a LoRA of no subject.';
comment on column public.subjects_models.job_id is 'The training job that made it.';
comment on column public.subjects_models.version is 'Counted from 1 for each subject and family.';
comment on column public.subjects_models.base is 'The base model it was trained on.';
comment on column public.subjects_models.family is 'The family of base models that it fits.';
comment on column public.subjects_models.path is 'The object''s key in the models bucket.';
comment on column public.subjects_models.sha256 is 'SHA-256 of the file, checked before it is loaded.';
comment on column public.subjects_models.rank is 'The LoRA''s rank.';
comment on column public.subjects_models.trigger_word is 'The word that stands for the person in a prompt.';
comment on column public.subjects_models.metrics is 'steps, final_loss, photos and more.';
comment on column public.subjects_models.created_at is 'When it was published.';
comment on column public.subjects_models.retired_at is 'If set, requests that name no LoRA do not use this one.';

comment on table public.presets is
  'A look to reuse. owner_id NULL: all users may use it. In prompt, {prompt} stands for the request''s prompt and {trigger} for the trigger word.';
comment on column public.presets.id is 'The id for preset_id of a job.';
comment on column public.presets.owner_id is 'The user it belongs to; NULL: all users may use it.';
comment on column public.presets.name is 'For the app''s own use.';
comment on column public.presets.kind is 'The kind of job it is for.';
comment on column public.presets.prompt is '{prompt} stands for the request''s prompt, {trigger} for the trigger word.';
comment on column public.presets.negative_prompt is 'Added to the request''s own.';
comment on column public.presets.settings is 'Values for columns that the request leaves open: width, height, steps, guidance, sampler, clip_skip, rank, learning_rate, resolution, class_name.';
comment on column public.presets.created_at is 'When the row was inserted.';

-- --------------------------------------------------------------------------------------------------------------- jobs

comment on column worker.life_cycle.attempt is 'It increases at every start and never decreases; only the newest attempt may write.';
comment on column worker.life_cycle.failures is 'Attempts that failed, or whose pod was lost; a shutdown does not count as a failure.';
comment on column worker.life_cycle.run_after is 'Do not start before this time; set to the time of the next attempt after a failure.';
comment on column worker.life_cycle.owner_id is 'The user to whom the subject belongs, else the signed-in user.';
comment on column worker.life_cycle.subject_id is 'The person or product that the job is about.';
comment on column worker.life_cycle.status is 'queued, running, completed, failed or cancelled.';
comment on column worker.life_cycle.max_failures is 'The job fails for good when failures reaches this number.';
comment on column worker.life_cycle.priority is 'Jobs with a higher number start first.';
comment on column worker.life_cycle.max_runtime is 'A longer attempt ends as timeout. Left open: the kind''s limit.';
comment on column worker.life_cycle.progress is 'From 0 to 1.';
comment on column worker.life_cycle.phase is 'What the job is doing or waiting for, in words for the app''s user.';
comment on column worker.life_cycle.cancel_code is 'cancelled, or consent_denied after a revocation.';
comment on column worker.life_cycle.error_code is 'Why the job failed; see the error codes.';
comment on column worker.life_cycle.error is 'The same in words for the app''s user.';
comment on column worker.life_cycle.result is 'The outcome: keys, sizes, seed, settings used.';
comment on column worker.life_cycle.metrics is 'From the last report: step, loss, learning rate, seconds.';
comment on column worker.life_cycle.fingerprint is 'A digest of everything that the result depends on, if the kind answers identical requests from storage.';
comment on column worker.life_cycle.guides is 'The guides that the job needs, chosen from worker.guides when it was inserted; NULL: none.';
comment on column worker.life_cycle.pod_id is 'The pod that runs it, or ran it last.';
comment on column worker.life_cycle.created_at is 'When the request was inserted.';
comment on column worker.life_cycle.started_at is 'When the last attempt started.';
comment on column worker.life_cycle.finished_at is 'When it ended; NULL while it is open.';

-- The comments are written once, for the template, and copied to every job table.
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

comment on column public.training_jobs.base is 'The base model to train on. Left open: worker.config.default_base, or its train_base.';
comment on column public.training_jobs.preset_id is 'A preset of the user''s, or one for all users.';
comment on column public.training_jobs.sample_paths is 'Keys of the photos to use; NULL: all of the subject''s that are not rejected.';
comment on column public.training_jobs.trigger_word is 'Left open: the subject''s.';
comment on column public.training_jobs.class_name is 'The class that the LoRA must leave unchanged, in words that replace the trigger word: for example "a woman" or "a mug". Left open: "a person".';
comment on column public.training_jobs.steps is 'Left open: the family''s default for this number of photos.';
comment on column public.training_jobs.rank is 'Rank of the LoRA. Left open: the family''s default.';
comment on column public.training_jobs.learning_rate is 'Left open: the family''s default.';
comment on column public.training_jobs.resolution is 'Train on photos of this size, in pixels. Left open: the family''s default sizes.';
comment on column public.training_jobs.seed is 'Left open: derived from the job''s id.';

comment on table public.generation_jobs is
  'Requests for pictures. model_ids NULL: the subject''s newest LoRA. steps, guidance, width, height NULL: the base model''s defaults.';
comment on column public.generation_jobs.base is 'The base model to generate with. Left open: that of the LoRA, or the default one if LoRAs for it are trained on that, else worker.config.default_base.';
comment on column public.generation_jobs.preset_id is 'A preset of the user''s, or one for all users.';
comment on column public.generation_jobs.prompt is 'What to generate. The trigger word is added where it is missing.';
comment on column public.generation_jobs.negative_prompt is 'What to avoid, where the base model supports it.';
comment on column public.generation_jobs.model_ids is 'The LoRAs to use; NULL: the subject''s newest of the base model, else of its family.';
comment on column public.generation_jobs.lora_scales is 'The strength of each of model_ids. Left open: 1.';
comment on column public.generation_jobs.reference_paths is 'Keys of one to four pictures of people for the base model to refer to; each person must consent.';
comment on column public.generation_jobs.cache is 'False: draw it anew, although an identical request was completed for the same owner, and do not use it for later ones.';
comment on column public.generation_jobs.reference_urls is 'One to four https URLs of pictures for the base model to refer to. Either these or reference_paths; subject_id must name whom or what they show.';
comment on column public.generation_jobs.reference_scale is 'The strength of the references, from 0 (as without them) to 2. Left open: 1.';
comment on column public.generation_jobs.control_path is 'The key of a picture that sets pose, outline or depth.';
comment on column public.generation_jobs.control_kind is 'What control_path is for: canny, pose or depth, as the base model can.';
comment on column public.generation_jobs.control_from is 'What control_path shows: a finished map, or a photo, of which pose and depth are found. Left open: map. For canny, the edges of a photo are found either way.';
comment on column public.generation_jobs.control_scale is 'The strength of the control, from 0 (as without it) to 2. Left open: 1.';
comment on column public.generation_jobs.control_start is 'The share of the steps after which the control begins. Left open: 0.';
comment on column public.generation_jobs.control_end is 'The share of the steps after which the control ends. Left open: 1.';
comment on column public.generation_jobs.width is 'In pixels, before upscaling. Left open: the base model''s default.';
comment on column public.generation_jobs.height is 'In pixels, before upscaling. Left open: the base model''s default.';
comment on column public.generation_jobs.steps is 'Left open: the base model''s default.';
comment on column public.generation_jobs.sampler is 'Its name, such as euler_a or DPM++ 2M Karras. Left open: the one of the base model''s folder.';
comment on column public.generation_jobs.clip_skip is 'The layer of CLIP that is read, counted from the last, which is 1. Left open: the family''s.';
comment on column public.generation_jobs.guidance is 'How closely to follow the prompt. Left open: the base model''s default.';
comment on column public.generation_jobs.seed is 'The same seed generates the same picture. Left open: derived from the job''s id.';
comment on column public.generation_jobs.num_images is 'How many pictures to generate.';
comment on column public.generation_jobs.upscale is 'The factor by which every picture is upscaled: 2 or 4.';
comment on column public.generation_jobs.quality is 'The quality of JPEG and WebP files, 1 to 100.';
comment on column public.generation_jobs.output_format is 'png, jpeg or webp.';

comment on column worker.internal_jobs.payload is 'The input of the job, such as the LoRA to copy.';

comment on column worker.job_subjects.kind is 'The job''s kind.';
comment on column worker.job_subjects.job_id is 'The job.';
comment on column worker.job_subjects.subject_id is 'A person in the job.';

comment on column worker.job_events.id is 'In the order of the events.';
comment on column worker.job_events.kind is 'The job''s kind.';
comment on column worker.job_events.job_id is 'The job.';
comment on column worker.job_events.attempt is 'The attempt; 0 before the first.';
comment on column worker.job_events.at is 'When it happened.';
comment on column worker.job_events.event is 'refused: at INSERT, for missing consent or a blocked prompt. started: an attempt began. phase: the phase changed. checkpoint: training can resume from here. requeued: back on the queue; code says why. cancel_requested: the running attempt was told to stop. retried: requeued by retry_job. completed, failed, cancelled: the job ended.';
comment on column worker.job_events.detail is 'What belongs to the event: pod, phase, step, code, error.';

comment on table worker.staged_objects is
  'Every object that a pod writes for a job, registered before its upload. Unpublished objects are deleted from storage.';
comment on column worker.staged_objects.id is 'The id for mark_objects_deleted.';
comment on column worker.staged_objects.bucket is 'The bucket.';
comment on column worker.staged_objects.key is 'The object''s key, which contains the attempt.';
comment on column worker.staged_objects.kind is 'The job''s kind.';
comment on column worker.staged_objects.job_id is 'The job.';
comment on column worker.staged_objects.attempt is 'The attempt that uploads it.';
comment on column worker.staged_objects.owner_id is 'The user whose job it is; clients see their own published objects.';
comment on column worker.staged_objects.state is 'staged, checkpoint, published or deleting (deletable: a pod deletes it).';
comment on column worker.staged_objects.step is 'The training step of a checkpoint.';
comment on column worker.staged_objects.created_at is 'When it was registered.';
comment on column worker.staged_objects.deletions is 'How often it was deleted from storage; more than once, because a late upload may create it again.';
comment on column worker.staged_objects.offer_after is 'When to offer it for deletion (again).';

-- ------------------------------------------------------------------------------------------------------ consent ledger

comment on table worker.consent_events is
  'The consent ledger: append-only, without personal data or a foreign key, so that it outlives the subject. evidence_digest is the SHA-256 of the evidence, or of the reason that was given; reason holds fixed texts only.';
comment on column worker.consent_events.id is 'In the order in which they were written.';
comment on column worker.consent_events.subject_id is 'The person; not a foreign key, so that the row outlives the subject.';
comment on column worker.consent_events.event is 'grant, reject, revoke, expiry, refusal or erasure.';
comment on column worker.consent_events.purposes is 'The purposes that were granted, or that a refused job needed.';
comment on column worker.consent_events.expires_at is 'When the grant ends.';
comment on column worker.consent_events.reason is 'A fixed text of this project; never a user''s own words.';
comment on column worker.consent_events.evidence_digest is 'SHA-256 of the evidence, or of the reason that was given.';
comment on column worker.consent_events.job_kind is 'The kind of a refused job.';
comment on column worker.consent_events.job_id is 'The refused job.';
comment on column worker.consent_events.actor is 'The signed-in user, else the role of the session.';
comment on column worker.consent_events.at is 'When it happened.';

-- -------------------------------------------------------------------------------------------------------------- views

comment on column worker.jobs.id is 'The job.';
comment on column worker.jobs.kind is 'Its kind.';
comment on column worker.jobs.status is 'queued, running, completed, failed or cancelled.';
comment on column worker.jobs.try is 'The attempt.';
comment on column worker.jobs.done is 'Progress in per cent.';
comment on column worker.jobs.note is 'The error code, else the phase, cut to 24 characters.';
comment on column worker.jobs.created is 'When it was inserted.';

comment on column worker.queue_depth.route is 'kind/base, kind/base+guide, or the kind alone.';
comment on column worker.queue_depth.waiting is 'Jobs that wait.';
comment on column worker.queue_depth.oldest is 'How long the oldest has waited.';
comment on column worker.queue_depth.running is 'Jobs that a pod has claimed.';
comment on column worker.queue_depth.pods is 'Live pods that offer the route.';

comment on column worker.job_details.kind is 'Its kind.';
comment on column worker.job_details.request is 'The request: the columns that its kind adds, without those left open.';

comment on column worker.stranded_jobs.kind is 'The job''s kind.';
comment on column worker.stranded_jobs.id is 'The job.';
comment on column worker.stranded_jobs.route is 'kind/base, kind/base+guide, or the kind alone.';
comment on column worker.stranded_jobs.since is 'When it was put on the queue.';
comment on column worker.stranded_jobs.why is 'Why no live pod can run it.';
