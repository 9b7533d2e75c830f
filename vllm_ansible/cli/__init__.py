"""The programs that scripts/ runs, one module each."""
