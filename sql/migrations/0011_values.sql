-- Values that Postgres allows and a worker, JSON or a client library cannot hold: infinite times and years of five digits, numbers
-- that are not finite, counters without a limit. Rows that hold one already are mended first. Expired or endless consent stays so.

do $$
declare
  v_table text;
begin
  for v_table in
    select 'worker.life_cycle'
    union select unnest('{public.training_jobs,public.generation_jobs,worker.internal_jobs}'::text[])
    union select table_name from worker.job_kinds where to_regclass(table_name) is not null
    order by 1
  loop
    execute format(
      $sql$update %s set
             run_after = least(greatest(run_after, '1970-01-01 00:00:00+00'), '9998-12-31 00:00:00+00'),
             gpu_seconds = case when gpu_seconds >= 0 and gpu_seconds <= 1e12 then gpu_seconds else 0 end,
             failures = least(greatest(failures, 0), 20)
           where run_after < '1970-01-01 00:00:00+00' or run_after >= '9999-01-01 00:00:00+00'
              or gpu_seconds < 0 or gpu_seconds > 1e12 or failures not between 0 and 20$sql$, v_table);
    execute format(
      $sql$alter table %s
             add constraint run_after_between_1970_and_9999
               check (run_after >= '1970-01-01 00:00:00+00' and run_after < '9999-01-01 00:00:00+00'),
             add constraint gpu_seconds_between_0_and_1e12 check (gpu_seconds between 0 and 1e12),
             add constraint failures_between_0_and_20 check (failures between 0 and 20)$sql$, v_table);
  end loop;
end $$;

-- NULL is how consent without an end is written.
do $$
begin
  perform set_config('worker.changing_consent', 'yes', true);
  update public.subjects set consent_expires_at =
    case when consent_expires_at < '1970-01-01 00:00:00+00' then timestamptz '1970-01-01 00:00:00+00' end
  where consent_expires_at < '1970-01-01 00:00:00+00' or consent_expires_at >= '9999-01-01 00:00:00+00';
  perform set_config('worker.changing_consent', '', true);
end $$;
alter table public.subjects add constraint subjects_consent_expires_at_between_1970_and_9999
  check (consent_expires_at >= '1970-01-01 00:00:00+00' and consent_expires_at < '9999-01-01 00:00:00+00');

-- What service_role may write.
update public.subject_photos set created_at = now() where created_at < '1970-01-01 00:00:00+00' or created_at >= '9999-01-01 00:00:00+00';
alter table public.subject_photos add constraint subject_photos_created_at_between_1970_and_9999
  check (created_at >= '1970-01-01 00:00:00+00' and created_at < '9999-01-01 00:00:00+00');
update public.presets set created_at = now() where created_at < '1970-01-01 00:00:00+00' or created_at >= '9999-01-01 00:00:00+00';
alter table public.presets add constraint presets_created_at_between_1970_and_9999
  check (created_at >= '1970-01-01 00:00:00+00' and created_at < '9999-01-01 00:00:00+00');
update public.subjects_models set retired_at = now() where retired_at < '1970-01-01 00:00:00+00' or retired_at >= '9999-01-01 00:00:00+00';
alter table public.subjects_models add constraint subjects_models_retired_at_between_1970_and_9999
  check (retired_at >= '1970-01-01 00:00:00+00' and retired_at < '9999-01-01 00:00:00+00');

update public.presets set settings = '{}' where jsonb_path_exists(settings, 'strict $.**{20}');
alter table public.presets add constraint presets_settings_nested_up_to_20_levels check (not jsonb_path_exists(settings, 'strict $.**{20}'));

-- What an administrator may write.
update worker.config set keep_logs_for = least(greatest(keep_logs_for, interval '0'), interval '1000 years'),
  open_jobs_per_owner = least(open_jobs_per_owner, 1000000)
where keep_logs_for not between interval '0' and interval '1000 years' or open_jobs_per_owner > 1000000;
alter table worker.config
  add constraint config_keep_logs_for_between_0_and_1000_years check (keep_logs_for between interval '0' and interval '1000 years'),
  add constraint config_open_jobs_per_owner_up_to_1000000 check (open_jobs_per_owner <= 1000000);
update worker.base_models set defaults = '{}' where jsonb_typeof(defaults) <> 'object';
alter table worker.base_models add constraint base_models_defaults_is_an_object check (jsonb_typeof(defaults) = 'object');

update worker.pgqueuer set execute_after = least(greatest(execute_after, '1970-01-01 00:00:00+00'), '9998-12-31 00:00:00+00')
where execute_after < '1970-01-01 00:00:00+00' or execute_after >= '9999-01-01 00:00:00+00';

-- Where revoke_for_deleted_accounts continues.
alter table worker.clock add column people_checked_to uuid;
