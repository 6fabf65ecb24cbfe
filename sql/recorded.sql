-- The last file: what is in the catalog now is what should be there.
do $$
begin
  perform worker.record_catalog();
end $$;
