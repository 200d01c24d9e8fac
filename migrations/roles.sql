-- The database roles, made once per PostgreSQL cluster. Running this again changes nothing.
--   owner     owns schema and tables, runs migrations; no login
--   app       receivers and flows: row security applies, one tenant per transaction
--   launcher  claims work over all tenants, sees only what claiming needs; becomes app for the rest
--   resolver  owns the functions that find a tenant by a token; no login
DO $$
DECLARE
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY[
    'prefect_n8n_owner NOLOGIN', 'prefect_n8n_resolver NOLOGIN',
    'prefect_n8n_app LOGIN', 'prefect_n8n_launcher LOGIN NOINHERIT'
  ] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = split_part(wanted, ' ', 1)) THEN
      BEGIN
        EXECUTE 'CREATE ROLE ' || wanted || ' NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE';
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another database of this cluster made it meanwhile
      END;
    END IF;
  END LOOP;
  IF NOT pg_has_role('prefect_n8n_launcher', 'prefect_n8n_app', 'MEMBER') THEN
    GRANT prefect_n8n_app TO prefect_n8n_launcher;
  END IF;
  IF NOT pg_has_role('prefect_n8n_owner', 'prefect_n8n_resolver', 'MEMBER') THEN
    GRANT prefect_n8n_resolver TO prefect_n8n_owner;
  END IF;
  -- The migrating login acts as the owner; it must be a member unless it is a superuser. Since
  -- PostgreSQL 16 who makes a role is a member that may not SET ROLE to it, and must grant that.
  IF NOT pg_has_role(current_user, 'prefect_n8n_owner',
      CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
  THEN
    EXECUTE format('GRANT prefect_n8n_owner TO %I', current_user);
  END IF;
END
$$;
CREATE SCHEMA IF NOT EXISTS prefect_n8n AUTHORIZATION prefect_n8n_owner;
