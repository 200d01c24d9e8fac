"""Lets Prefect's migrations run on the embedded PostgreSQL, whose wheel has no ``pg_trgm``.

Prefect makes trigram indexes to speed up name filters. The extension made here has the operator
class those indexes name, but no operator in it: the planner never uses them, nothing is stored in
them, and every query answers as it would without. Needs PostgreSQL 18's extension_control_path.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import psycopg
from psycopg import sql

_CONTROL = """\
comment = 'names of pg_trgm for index definitions; made by prefect-n8n'
default_version = '1.6'
relocatable = true
"""
# void_in takes anything and returns nothing: no entry for a value, and none for a query.
_SCRIPT = """\
CREATE FUNCTION gin_extract_value_trgm(text, internal) RETURNS internal
  AS 'void_in' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION gin_extract_query_trgm(text, internal, int2, internal, internal, internal, internal)
  RETURNS internal AS 'void_in' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION gin_trgm_consistent(
  internal, int2, text, int4, internal, internal, internal, internal)
  RETURNS bool AS 'void_in' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE OPERATOR CLASS gin_trgm_ops FOR TYPE text USING gin AS
  FUNCTION 1 bttextcmp(text, text),
  FUNCTION 2 gin_extract_value_trgm(text, internal),
  FUNCTION 3 gin_extract_query_trgm(
    text, internal, int2, internal, internal, internal, internal),
  FUNCTION 4 gin_trgm_consistent(
    internal, int2, text, int4, internal, internal, internal, internal);
"""


def provide_trigrams(url: str, data: Path) -> None:
    """Make extension ``pg_trgm`` available to the cluster whose data is in ``data``."""
    home = data / "extensions"
    folder = home / "extension"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pg_trgm.control").write_text(_CONTROL)
    (folder / "pg_trgm--1.6.sql").write_text(_SCRIPT)
    owner = data.stat()
    for path in (home, folder, *folder.iterdir()):
        shutil.chown(path, owner.st_uid, owner.st_gid)
    with psycopg.connect(url, autocommit=True) as connection:
        setting = sql.Literal(f"{home}:$system")
        connection.execute(sql.SQL("ALTER SYSTEM SET extension_control_path = {}").format(setting))
        connection.execute("SELECT pg_reload_conf()")
