-- Accounts of users. A deleted account's token is valid until it expires, so an INSERT asks for the account itself.

-- The lock makes the deletion of the account wait until this transaction ends, and this statement until a deletion that has
-- begun has ended: so a deletion sees every row that was inserted before it.
create or replace function worker.lock_account(p_user_id uuid) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
  if has_any_column_privilege('auth.users', 'update') then  -- a row lock needs it, and Supabase decides what we may do there
    perform from auth.users where id = p_user_id for key share;
  end if;
  return not worker.account_is_deleted(p_user_id);
end $$;
comment on function worker.lock_account is 'Keep a user''s account until the transaction ends; returns false if it does not exist.';

create or replace function worker.check_account() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if auth.uid() is not null and not worker.lock_account(auth.uid()) then
    raise exception 'the account of this user was deleted' using errcode = '42501', hint = 'Sign in again.';
  end if;
  return new;
end $$;
comment on function worker.check_account is 'Raise 42501 for a row of a signed-in user whose account was deleted.';
