"""One file per version, named by its number; a landed file is never changed."""
