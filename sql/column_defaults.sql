-- NULL means the default, in every column that has one: clients that send many rows at once name the columns of all of them,
-- and send NULL for those that a row does not have. A column without a default keeps its NULL. JSON's null counts as NULL.

-- Constants are evaluated here, once; anything else for each row.
create or replace function worker.column_defaults(p_table text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
  v_value jsonb;
  v_constants jsonb := '{}';
  v_expressions jsonb := '{}';
begin
  for v_column in
    select own.attname, pg_get_expr(defaults.adbin, defaults.adrelid) as expression
    from pg_catalog.pg_attribute own join pg_catalog.pg_attrdef defaults on defaults.adrelid = own.attrelid and defaults.adnum = own.attnum
    where own.attrelid = p_table::regclass and own.attgenerated = '' and own.attidentity = ''
    order by own.attname
  loop
    if v_column.expression ~ E'^(-?[0-9.]+|true|false|''([^'']|'''')*''::[a-z_ "]+(\\[\\])?)$' then
      execute format('select to_jsonb(%s)', v_column.expression) into v_value;
      v_constants := v_constants || jsonb_build_object(v_column.attname, v_value);
    else
      v_expressions := v_expressions || jsonb_build_object(v_column.attname, v_column.expression);
    end if;
  end loop;
  return jsonb_build_object('constants', v_constants, 'expressions', v_expressions,
                            'columns', array(select jsonb_object_keys(v_constants || v_expressions))::text);
end $$;
comment on function worker.column_defaults is
  'Return the columns of a table that have a default: constants, as values, and expressions, as SQL. An argument of triggers.';

create or replace function worker.defaults_for_nulls(p_row jsonb, p_defaults jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_filled jsonb;
  v_column record;
  v_value jsonb;
begin
  if jsonb_strip_nulls(p_row) ?& (p_defaults ->> 'columns')::text[] then
    return '{}';
  end if;
  select coalesce(jsonb_object_agg(key, value), '{}') into v_filled
  from jsonb_each(p_defaults -> 'constants') where p_row -> key = 'null';
  for v_column in select key, value as expression from jsonb_each_text(p_defaults -> 'expressions') where p_row -> key = 'null' loop
    execute format('select to_jsonb(%s)', v_column.expression) into v_value;
    v_filled := v_filled || jsonb_build_object(v_column.key, v_value);
  end loop;
  return v_filled;
end $$;
comment on function worker.defaults_for_nulls is 'Return the defaults of the columns that are NULL in a row.';

create or replace function worker.fill_defaults() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_populate_record(new, worker.defaults_for_nulls(to_jsonb(new), tg_argv[0]::jsonb));
end $$;
comment on function worker.fill_defaults is 'Set the columns of a new row that are NULL and have a default.';
