"""What protects people: consent is asked for again before anything is loaded, and prompts are screened."""
