-- Row security, grants, the functions that find a tenant, and the audit chain.

-- Row security: enabled and FORCED everywhere, one policy per command. The sub-select makes the
-- setting be read once per statement; nullif, because a reset setting reads as ''. No tenant: no row.
DO $$
DECLARE
  relation text;
  mine constant text :=
    'tenant_id = (SELECT nullif(current_setting(''prefect_n8n.tenant_id'', true), '''')::uuid)';
BEGIN
  FOREACH relation IN ARRAY ARRAY[
    'webhook_endpoints', 'webhook_events', 'workflow_triggers', 'workflow_executions',
    'data_sync_configs', 'api_tokens', 'audit_log'
  ] LOOP
    EXECUTE format('ALTER TABLE prefect_n8n.%I ENABLE ROW LEVEL SECURITY', relation);
    EXECUTE format('ALTER TABLE prefect_n8n.%I FORCE ROW LEVEL SECURITY', relation);
    EXECUTE format(
      'CREATE POLICY tenant_select ON prefect_n8n.%I FOR SELECT TO prefect_n8n_app USING (%s)',
      relation, mine);
    EXECUTE format(
      'CREATE POLICY tenant_insert ON prefect_n8n.%I FOR INSERT TO prefect_n8n_app WITH CHECK (%s)',
      relation, mine);
    EXECUTE format('GRANT SELECT, INSERT ON prefect_n8n.%I TO prefect_n8n_app', relation);
    CONTINUE WHEN relation = 'audit_log';
    EXECUTE format(
      'CREATE POLICY tenant_update ON prefect_n8n.%I FOR UPDATE TO prefect_n8n_app'
      ' USING (%s) WITH CHECK (%s)', relation, mine, mine);
    EXECUTE format(
      'CREATE POLICY tenant_delete ON prefect_n8n.%I FOR DELETE TO prefect_n8n_app USING (%s)',
      relation, mine);
    EXECUTE format('GRANT UPDATE, DELETE ON prefect_n8n.%I TO prefect_n8n_app', relation);
  END LOOP;
END
$$;
GRANT USAGE ON SCHEMA prefect_n8n TO prefect_n8n_app, prefect_n8n_launcher, prefect_n8n_resolver;

-- The launcher claims over all tenants: unfinished rows only, and of those the columns of the claim.
CREATE POLICY launcher_select ON prefect_n8n.webhook_events FOR SELECT TO prefect_n8n_launcher
  USING (state IN ('pending', 'processing', 'retryable'));
CREATE POLICY launcher_update ON prefect_n8n.webhook_events FOR UPDATE TO prefect_n8n_launcher
  USING (state IN ('pending', 'processing', 'retryable')) WITH CHECK (state = 'processing');
GRANT SELECT (tenant_id, id, endpoint_id, state, claims, scheduled_at, lease_owner, lease_expires_at),
  UPDATE (state, claims, lease_owner, lease_expires_at)
  ON prefect_n8n.webhook_events TO prefect_n8n_launcher;

CREATE POLICY launcher_select ON prefect_n8n.workflow_executions FOR SELECT TO prefect_n8n_launcher
  USING (finished_at IS NULL);
CREATE POLICY launcher_update ON prefect_n8n.workflow_executions FOR UPDATE TO prefect_n8n_launcher
  USING (finished_at IS NULL) WITH CHECK (finished_at IS NULL);
GRANT SELECT (tenant_id, id, webhook_event_id, engine, state, flow_run_id, rescues, created_at,
    started_at, finished_at, lease_owner, lease_expires_at),
  UPDATE (state, rescues, started_at, lease_owner, lease_expires_at)
  ON prefect_n8n.workflow_executions TO prefect_n8n_launcher;

CREATE POLICY launcher_select ON prefect_n8n.webhook_endpoints FOR SELECT TO prefect_n8n_launcher
  USING (true);
GRANT SELECT (tenant_id, id, state) ON prefect_n8n.webhook_endpoints TO prefect_n8n_launcher;

CREATE POLICY launcher_select ON prefect_n8n.workflow_triggers FOR SELECT TO prefect_n8n_launcher
  USING (true);
GRANT SELECT (tenant_id, endpoint_id, state, deployment) ON prefect_n8n.workflow_triggers
  TO prefect_n8n_launcher;

-- A public path or a bearer token is looked up before any tenant is known. The functions' owner
-- can read these columns of these two tables and nothing else.
CREATE POLICY resolver_select ON prefect_n8n.webhook_endpoints FOR SELECT TO prefect_n8n_resolver
  USING (true);
CREATE POLICY resolver_select ON prefect_n8n.api_tokens FOR SELECT TO prefect_n8n_resolver
  USING (true);
GRANT SELECT (tenant_id, id, token_hash, direction) ON prefect_n8n.webhook_endpoints
  TO prefect_n8n_resolver;
GRANT SELECT (tenant_id, id, token_hash, scopes, expires_at) ON prefect_n8n.api_tokens
  TO prefect_n8n_resolver;

CREATE FUNCTION prefect_n8n.resolve_endpoint(token_sha256 bytea)
  RETURNS TABLE (tenant_id uuid, endpoint_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
  AS 'SELECT e.tenant_id, e.id FROM prefect_n8n.webhook_endpoints e
      WHERE e.token_hash = token_sha256 AND e.direction = ''inbound''';

CREATE FUNCTION prefect_n8n.resolve_token(token_sha256 bytea)
  RETURNS TABLE (tenant_id uuid, token_id uuid, scopes text[])
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
  AS 'SELECT t.tenant_id, t.id, t.scopes FROM prefect_n8n.api_tokens t
      WHERE t.token_hash = token_sha256 AND (t.expires_at IS NULL OR t.expires_at > now())';

-- The audit log is append-only, and each entry carries the hash of the one before it, per tenant:
-- a removed or altered entry breaks the chain.
CREATE FUNCTION prefect_n8n.audit_hash(entry prefect_n8n.audit_log) RETURNS bytea
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog
  AS 'SELECT sha256(entry.previous_hash || convert_to(jsonb_build_array(
        entry.tenant_id, entry.seq, extract(epoch FROM entry.at), entry.actor, entry.action,
        entry.subject, entry.before, entry.after, entry.reason)::text, ''UTF8''))';

CREATE FUNCTION prefect_n8n.audit_chain() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
  last record;
BEGIN
  -- One writer per tenant at a time, until its commit; two would take the same previous entry.
  PERFORM pg_advisory_xact_lock(hashtextextended('prefect_n8n_audit' || NEW.tenant_id, 0));
  SELECT a.seq, a.hash INTO last FROM prefect_n8n.audit_log a
    WHERE a.tenant_id = NEW.tenant_id ORDER BY a.seq DESC LIMIT 1;
  NEW.seq := coalesce(last.seq, 0) + 1;
  NEW.at := clock_timestamp();
  NEW.previous_hash := coalesce(last.hash, ''::bytea);
  NEW.hash := prefect_n8n.audit_hash(NEW);
  RETURN NEW;
END
$$;
CREATE TRIGGER audit_chain BEFORE INSERT ON prefect_n8n.audit_log
  FOR EACH ROW EXECUTE FUNCTION prefect_n8n.audit_chain();

CREATE FUNCTION prefect_n8n.audit_refuse() RETURNS trigger
  LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
  RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_refuse BEFORE UPDATE OR DELETE ON prefect_n8n.audit_log
  FOR EACH ROW EXECUTE FUNCTION prefect_n8n.audit_refuse();
CREATE TRIGGER audit_refuse_truncate BEFORE TRUNCATE ON prefect_n8n.audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION prefect_n8n.audit_refuse();

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA prefect_n8n FROM PUBLIC;
GRANT EXECUTE ON FUNCTION prefect_n8n.resolve_endpoint(bytea), prefect_n8n.resolve_token(bytea),
  prefect_n8n.audit_hash(prefect_n8n.audit_log) TO prefect_n8n_app;

-- Hand the functions to the resolver, which may not make anything else in the schema.
GRANT CREATE ON SCHEMA prefect_n8n TO prefect_n8n_resolver;
ALTER FUNCTION prefect_n8n.resolve_endpoint(bytea) OWNER TO prefect_n8n_resolver;
ALTER FUNCTION prefect_n8n.resolve_token(bytea) OWNER TO prefect_n8n_resolver;
REVOKE CREATE ON SCHEMA prefect_n8n FROM prefect_n8n_resolver;

-- Anyone of ours may see which version the schema has.
GRANT SELECT ON prefect_n8n.schema_version TO prefect_n8n_app, prefect_n8n_launcher;
