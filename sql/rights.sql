-- Who may call what. It runs after all files that create functions and views, those of packages included.

-- Everything is revoked first, whatever the project's default privileges granted; then each line below grants.
do $$
declare
  v_function record;
begin
  for v_function in
    select oid::regprocedure as signature from pg_catalog.pg_proc
    where pronamespace = 'worker'::regnamespace or oid in (select worker.app_functions())
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role, likeness_worker', v_function.signature);
  end loop;
end $$;

revoke all on schema worker from public, anon, authenticated, service_role;
grant usage on schema worker to authenticated, service_role, likeness_worker;
revoke all on all tables in schema worker from public, anon, authenticated, service_role, likeness_worker;
revoke all on all sequences in schema worker from public, anon, authenticated, service_role, likeness_worker;

-- Rights guard schema worker: with row-level security, which some projects' event triggers switch on, pods see no rows.
do $$
declare
  v_table regclass;
begin
  for v_table in select oid from pg_catalog.pg_class where relnamespace = 'worker'::regnamespace and (relrowsecurity or relforcerowsecurity) loop
    execute format('alter table %s disable row level security, no force row level security', v_table);
  end loop;
end $$;

-- Functions that apps call. The wrappers run as their caller, who needs the one function that is meant for that role.
grant execute on function public.cancel_job, public.retry_job, public.grant_consent, public.revoke_consent to authenticated, service_role;
grant execute on function public.reject_consent to service_role;
grant execute on function worker.cancel_job_as_owner, worker.retry_job_as_owner, worker.grant_consent_as_owner,
  worker.revoke_consent_as_owner to authenticated;
grant execute on function worker.cancel_job_as_service, worker.retry_job_as_service, worker.grant_consent_as_service,
  worker.revoke_consent_as_service, worker.reject_consent_as_service to service_role;

-- Functions that pods call. Pods own nothing, and may neither cancel jobs nor change consent.
grant execute on function worker.consent_error, worker.pod_lock_key, worker.subject_lock_key, worker.register_pod, worker.deregister_pod, worker.peek,
  worker.start_job, worker.report_job, worker.stage_objects, worker.save_checkpoint, worker.find_result, worker.redirect_error, worker.complete_job, worker.fail_job,
  worker.release_job, worker.set_aside_job, worker.heartbeat, worker.pod_heartbeat, worker.take_over, worker.run_housekeeping, worker.tick, worker.reap, worker.claim_deletable_objects, worker.mark_objects_deleted, worker.lock_lora_copy, worker.lora_to_copy,
  worker.queued_routes, worker.starved_routes, worker.next_due_s, worker.schema_major, worker.is_alive, worker.why_stranded, worker.usable_routes, worker.base_of_route, worker.guides_of_route,
  worker.guides_vram_gib, worker.timing,
  worker.required_capabilities, worker.required_vram_gib, worker.memory_requirement, worker.base_can, worker.base_serves, worker.weights_slug,
  worker.installation_error, worker.storage_hold, worker.judge_markers, worker.note_markers, worker.claim_look, worker.begin_renewal, worker.finish_renewal,
  worker.leave_pod, worker.take_garbage, worker.garbage_gone, worker.fits_memory
  to likeness_worker;
grant select, insert, update, delete on worker.pgqueuer, worker.pgqueuer_log, worker.pgqueuer_schedules, worker.pgqueuer_statistics to likeness_worker;
grant usage on sequence worker.pgqueuer_id_seq, worker.pgqueuer_log_id_seq, worker.pgqueuer_schedules_id_seq, worker.pgqueuer_statistics_id_seq to likeness_worker;
grant select on worker.job_kinds, worker.base_models, worker.guides, worker.config, worker.schema_versions, worker.kind_versions, worker.pods to likeness_worker;
-- Neither view shows people: `worker doctor` and `status` read them with a pod's login.
grant select on worker.queue_depth, worker.stranded_jobs to likeness_worker;
grant select on worker.config, worker.base_models, worker.guides, worker.job_kinds, worker.pods, worker.job_events, worker.consent_events to service_role;

do $$
begin
  perform worker.check_kinds();
  perform worker.grant_declared_rights();
end $$;
