-- What a LoRA leaves as it is: everybody else of the class that its person belongs to.
alter table public.training_jobs add column class_name text
  constraint training_jobs_class_name_is_a_phrase_of_up_to_40_characters
  check (length(class_name) <= 40 and class_name ~ '^[[:alpha:]]+([ ''-][[:alpha:]]+)*$');
