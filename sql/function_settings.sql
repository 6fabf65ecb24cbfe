-- What functions of this project do must not depend on the settings of an app's session: IntervalStyle, for one, changes what a
-- pod is told of a job, and standard_conforming_strings the patterns of the screening. The settings hold within the functions that these call too, so only those get
-- them that somebody else may call or that are triggers. The same values as in worker/database/session_settings.py.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select own.oid from pg_catalog.pg_proc own
    where own.pronamespace = 'worker'::regnamespace and own.prokind = 'f' and (
      own.prorettype = 'trigger'::regtype
      or exists (select from aclexplode(coalesce(own.proacl, acldefault('f', own.proowner))) allowed where allowed.grantee <> own.proowner))
  loop
    execute format(
      $sql$alter function %s
        set datestyle = 'ISO, MDY' set intervalstyle = 'postgres' set timezone = 'UTC' set bytea_output = 'hex' set extra_float_digits = 1
        set array_nulls = on set quote_all_identifiers = off set standard_conforming_strings = on set backslash_quote = safe_encoding
        set transform_null_equals = off set row_security = on$sql$, v_function);
  end loop;
end $$;
