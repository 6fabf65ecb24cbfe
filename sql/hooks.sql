-- Hooks: functions worker.{kind}__{hook} that the core calls for a kind of job, from sql/kinds/{kind}.sql or from the SQL of a
-- package. They are found in the catalog when the kind is registered; a kind without one gets the default written here. The
-- core does not name any kind.

create or replace function worker.hook_signatures() returns table (hook text, arguments text, result text, may_write boolean)
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  values
    ('named_keys', 'jsonb', 'TABLE(column_name text, key text, rule text)', false),
    ('texts', 'jsonb', 'TABLE(column_name text, words text, screens text)', false),
    ('plain_columns', '', 'text[]', false),
    ('default_base', 'jsonb', 'text', false),
    ('capabilities', 'jsonb', 'text[]', false),
    ('guided_by', '', 'text[]', false),
    ('request_error', 'jsonb', 'text', false),
    ('insert_error', 'jsonb', 'text', false),
    ('inputs_error', 'jsonb', 'text[]', false),
    ('payload', 'jsonb', 'jsonb', false),
    ('prefetch', 'jsonb', 'jsonb', false),
    ('prefix', 'jsonb, integer', 'text', false),
    ('result_keys', 'jsonb', 'SETOF text', false),
    ('result_error', 'jsonb, jsonb', 'text', false),
    ('publish', 'jsonb, jsonb', 'jsonb', true)
$$;
comment on function worker.hook_signatures is 'Return every hook that a kind of job may have: its arguments, its result, and whether it may write.';

create or replace function worker.hook(p_kind text, p_hook text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return (select format('worker.%I', p_kind || '__' || p_hook) from worker.job_kinds where kind = p_kind and p_hook = any (hooks));
end $$;
comment on function worker.hook is 'Return the name of a kind''s hook function; NULL for a kind without this hook.';

create or replace function worker.has_hook(p_kind text, p_hook text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return worker.hook(p_kind, p_hook) is not null;
end $$;
comment on function worker.has_hook is 'Return true if a kind of job has this hook.';

create or replace function worker.call_hook(p_kind text, p_hook text, p_job jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, p_hook);
  v_answer jsonb;
begin
  if v_hook is not null then
    execute format('select to_jsonb(%s($1))', v_hook) into v_answer using p_job;
  end if;
  return v_answer;
end $$;
comment on function worker.call_hook is 'Return the result of a hook that takes a job, as jsonb; NULL for a kind without the hook.';

-- ------------------------------------------------------------------------------------------------------------ requests

-- rule: own_photo (a photo of the job's own subject), person (a picture of a subject of the same owner), input (that, or
-- a picture without a person), lora (the id of a LoRA; its person counts).
create or replace function worker.named_keys(p_kind text, p_job jsonb) returns table (column_name text, key text, rule text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, 'named_keys');
begin
  if v_hook is not null then
    -- A NULL rule would compare as unknown to every rule, and the key would not be checked.
    return query execute format('select column_name, key, coalesce(rule, ''none'') from %s($1)', v_hook) using p_job;
  end if;
end $$;
comment on function worker.named_keys is 'Return every object key and LoRA that a job names, with the rule that it must meet. Default: none.';

-- screens: negative_prompt or prompt; any other value counts as prompt, which is stricter.
create or replace function worker.texts(p_kind text, p_job jsonb) returns table (column_name text, words text, screens text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, 'texts');
begin
  if v_hook is not null then
    return query execute format('select column_name, words, case screens when ''negative_prompt'' then screens else ''prompt'' end from %s($1)',
                                v_hook) using p_job;
  end if;
end $$;
comment on function worker.texts is 'Return the texts of a job that reach a model, in the order in which they are screened. Default: none.';

create or replace function worker.plain_columns(p_kind text) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, 'plain_columns');
  v_columns text[];
begin
  if v_hook is not null then
    execute format('select %s()', v_hook) into v_columns;
  end if;
  return coalesce(v_columns, '{}');
end $$;
comment on function worker.plain_columns is
  'Return the request columns that name neither a person nor an object and hold no words for a model. Default: none.';

-- -------------------------------------------------------------------------------------------------------------- checks

create or replace function worker.default_base(p_kind text, p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(worker.call_hook(p_kind, 'default_base', p_job) #>> '{}', (
    select case when worker.base_can(base, worker.capabilities(p_kind, '{}')) then config.default_base else coalesce(base.train_base, config.default_base) end
    from worker.config left join worker.base_models base on base.slug = config.default_base));
end $$;
comment on function worker.default_base is
  'Return the base model of a job that names none. Default: worker.config.default_base or, where that cannot do what the kind needs, its train_base.';

create or replace function worker.capabilities(p_kind text, p_job jsonb) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, 'capabilities');
  v_capabilities text[];
begin
  if v_hook is not null then
    execute format('select %s($1)', v_hook) into v_capabilities using p_job;
  end if;
  return coalesce(v_capabilities, '{}');
end $$;
comment on function worker.capabilities is
  'Return the capabilities that the base model of a job must have or, for an empty job, those that every job of the kind needs. Default: none.';

create or replace function worker.guided_by(p_kind text) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, 'guided_by');
  v_sorts text[];
begin
  if v_hook is not null then
    execute format('select %s()', v_hook) into v_sorts;
  end if;
  return coalesce(v_sorts, '{}');
end $$;
comment on function worker.guided_by is
  'Return the sorts of guides that a job of the kind may need: its capabilities up to the colon. Default: none.';

create or replace function worker.hook_error(p_kind text, p_hook text, p_job jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return worker.call_hook(p_kind, p_hook, p_job) #>> '{}';
end $$;
comment on function worker.hook_error is
  'Return what is wrong with a request, or NULL: request_error is called at INSERT and at start, insert_error at INSERT after all other checks. Default: NULL.';

create or replace function worker.inputs_error(p_kind text, p_job jsonb) returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array_agg(part order by position)
  from jsonb_array_elements_text(worker.call_hook(p_kind, 'inputs_error', p_job)) with ordinality as parts (part, position)
$$;
comment on function worker.inputs_error is 'Return why a job cannot start because of its inputs, as error code and message, or NULL. Default: NULL.';

-- ------------------------------------------------------------------------------------------------------------- payload

create or replace function worker.payload(p_kind text, p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$ select coalesce(worker.call_hook(p_kind, 'payload', p_job), '{}') $$;
comment on function worker.payload is 'Return an object with what the handler needs besides the row, inputs of the started job. Default: empty.';

create or replace function worker.prefetch(p_kind text, p_job jsonb) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$ select coalesce(worker.call_hook(p_kind, 'prefetch', p_job), '{}') $$;
comment on function worker.prefetch is 'Return an object with what a pod may prefetch for a waiting job. Default: empty.';

-- Whatever the hook returns, the prefix contains the job and the attempt, so that no attempt overwrites another's objects; and the
-- era, so that none overwrites those of a timeline that a restore has lost.
create or replace function worker.prefix(p_kind text, p_job jsonb, p_attempt integer) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_prefix text;
  v_era text;
begin
  if worker.has_hook(p_kind, 'prefix') then
    execute format('select %s($1, $2)', worker.hook(p_kind, 'prefix')) into v_prefix using p_job, p_attempt;
  else
    v_prefix := format('%s/%s/generated/%s/%s/', p_job ->> 'owner_id', coalesce(p_job ->> 'subject_id', '_'), p_job ->> 'id', p_attempt);
  end if;
  if v_prefix is null or not v_prefix like format('_%%/%s/%s/', p_job ->> 'id', p_attempt) or v_prefix like '%..%' or v_prefix ~ '(^|/)[.]?/' then
    raise exception 'kind %: prefix % must end in /%/%/', p_kind, coalesce(quote_literal(v_prefix), 'null'), p_job ->> 'id', p_attempt
      using errcode = '39000', hint = format('%s returns the beginning of every key that an attempt may write.', worker.hook(p_kind, 'prefix'));
  end if;
  v_era := (select era from worker.installation);
  return case when v_era > '' then left(v_prefix, -1) || '-' || v_era || '/' else v_prefix end;
end $$;
comment on function worker.prefix is
  'Return the beginning of every key that an attempt may write; it ends in /{job_id}/{attempt}/, or /{job_id}/{attempt}-{era}/ if the installation has an era. Default: {owner_id}/{subject_id|_}/generated/{job_id}/{attempt}/.';

-- ------------------------------------------------------------------------------------------------------------- results

create or replace function worker.result_keys(p_kind text, p_result jsonb) returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, 'result_keys');
begin
  if v_hook is not null then
    return query execute format('select %s($1)', v_hook) using p_result;
  else
    return query select key #>> '{}' from jsonb_path_query(p_result, 'lax $.objects[*]') key;
  end if;
end $$;
comment on function worker.result_keys is 'Return every object key that a result names. Default: the list objects.';

create or replace function worker.result_error(p_kind text, p_job jsonb, p_result jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, 'result_error');
  v_error text;
  v_unknown text;
begin
  if jsonb_typeof(p_result) is distinct from 'object' then
    return 'the result is not an object';
  end if;
  if v_hook is not null then
    execute format('select %s($1, $2)', v_hook) into v_error using p_job, p_result;
    if v_error is not null then
      return v_error;
    end if;
  end if;
  select named.object_key into v_unknown from worker.result_keys(p_kind, p_result) named (object_key)
  where named.object_key is not null and not exists (
    select from worker.staged_objects staged
    where staged.key = named.object_key and staged.kind = p_kind and staged.job_id = (p_job ->> 'id')::uuid
      and staged.attempt = (p_job ->> 'attempt')::integer and staged.state = 'staged') limit 1;
  return case when v_unknown is not null then 'not staged by this attempt: ' || v_unknown end;
exception when data_exception then
  return 'the result is malformed';
end $$;
comment on function worker.result_error is
  'Return why a result cannot be published, or NULL. For every kind, each object it names must have been staged by this attempt.';

create or replace function worker.publish(p_kind text, p_job jsonb, p_result jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_hook text := worker.hook(p_kind, 'publish');
  v_more jsonb;
begin
  if v_hook is not null then
    execute format('select %s($1, $2)', v_hook) into v_more using p_job, p_result;
  end if;
  return p_result || coalesce(v_more, '{}');
end $$;
comment on function worker.publish is
  'Do what a kind adds to publishing a result, in the same transaction; returns the result with the kind''s additions. Default: nothing.';
