-- Row security and grants of what 0002_tables.sql added, and the function that records a delivery.

DO $$
DECLARE
  relation text;
  mine constant text :=
    'tenant_id = (SELECT nullif(current_setting(''prefect_n8n.tenant_id'', true), '''')::uuid)';
BEGIN
  FOREACH relation IN ARRAY ARRAY['webhook_attempts', 'fallbacks', 'fallback_steps', 'redrives'] LOOP
    EXECUTE format('ALTER TABLE prefect_n8n.%I ENABLE ROW LEVEL SECURITY', relation);
    EXECUTE format('ALTER TABLE prefect_n8n.%I FORCE ROW LEVEL SECURITY', relation);
    EXECUTE format(
      'CREATE POLICY tenant_select ON prefect_n8n.%I FOR SELECT TO prefect_n8n_app USING (%s)',
      relation, mine);
    EXECUTE format(
      'CREATE POLICY tenant_insert ON prefect_n8n.%I FOR INSERT TO prefect_n8n_app WITH CHECK (%s)',
      relation, mine);
    EXECUTE format(
      'CREATE POLICY tenant_update ON prefect_n8n.%I FOR UPDATE TO prefect_n8n_app'
      ' USING (%s) WITH CHECK (%s)', relation, mine, mine);
    EXECUTE format(
      'CREATE POLICY tenant_delete ON prefect_n8n.%I FOR DELETE TO prefect_n8n_app USING (%s)',
      relation, mine);
    EXECUTE format(
      'GRANT SELECT, INSERT, UPDATE, DELETE ON prefect_n8n.%I TO prefect_n8n_app', relation);
  END LOOP;
END
$$;

-- The launcher claims deliveries endpoint by endpoint, and lets one probe past an open breaker.
GRANT SELECT (direction, flow_run_id) ON prefect_n8n.webhook_events TO prefect_n8n_launcher;
GRANT SELECT (slug, direction, breaker, breaker_until), UPDATE (breaker, breaker_until)
  ON prefect_n8n.webhook_endpoints TO prefect_n8n_launcher;
CREATE POLICY launcher_update ON prefect_n8n.webhook_endpoints FOR UPDATE TO prefect_n8n_launcher
  USING (direction = 'outbound' AND state = 'on') WITH CHECK (direction = 'outbound' AND state = 'on');

-- It claims fallbacks over all tenants, too.
CREATE POLICY launcher_select ON prefect_n8n.fallbacks FOR SELECT TO prefect_n8n_launcher
  USING (finished_at IS NULL);
CREATE POLICY launcher_update ON prefect_n8n.fallbacks FOR UPDATE TO prefect_n8n_launcher
  USING (finished_at IS NULL) WITH CHECK (finished_at IS NULL);
GRANT SELECT (tenant_id, id, state, claims, scheduled_at, finished_at, lease_owner, lease_expires_at,
    flow_run_id),
  UPDATE (state, claims, lease_owner, lease_expires_at)
  ON prefect_n8n.fallbacks TO prefect_n8n_launcher;

-- Records a delivery in the caller's transaction, whoever the caller is, if it may act as the
-- application: role and tenant hold for these statements alone, and are then as they were.
-- No row: there is no such outbound endpoint.
CREATE FUNCTION prefect_n8n.record_delivery(
  for_tenant uuid, to_endpoint text, delivery text, delivery_type text, raw bytea, trace text,
  delay_seconds double precision, url text, parent uuid, by_actor text
) RETURNS TABLE (row_id uuid, row_state text, duplicate boolean, same_body boolean)
  LANGUAGE plpgsql SET search_path = pg_catalog AS $$
#variable_conflict use_column
DECLARE
  role_before constant text := current_setting('role');
  tenant_before constant text := coalesce(current_setting('prefect_n8n.tenant_id', true), '');
  endpoint uuid;
  made uuid;
BEGIN
  PERFORM set_config('role', 'prefect_n8n_app', true),
          set_config('prefect_n8n.tenant_id', for_tenant::text, true);
  SELECT p.id INTO endpoint FROM prefect_n8n.webhook_endpoints p
    WHERE p.tenant_id = for_tenant AND p.slug = to_endpoint AND p.direction = 'outbound';
  IF FOUND THEN
    INSERT INTO prefect_n8n.webhook_events
      (tenant_id, id, endpoint_id, direction, event_id, type, body, body_hash, payload, traceparent,
       scheduled_at, target_url, parent_event_id)
    VALUES (for_tenant, gen_random_uuid(), endpoint, 'outbound', delivery, delivery_type, raw,
            sha256(raw), convert_from(raw, 'UTF8')::jsonb, trace,
            now() + make_interval(secs => delay_seconds), url, parent)
    ON CONFLICT (tenant_id, endpoint_id, event_id) DO NOTHING
    RETURNING id INTO made;
    IF made IS NOT NULL THEN
      PERFORM pg_notify('prefect_n8n_events', '');
      INSERT INTO prefect_n8n.audit_log
        (tenant_id, seq, actor, action, subject, after, previous_hash, hash)
      VALUES (for_tenant, 0, by_actor, 'event.recorded', 'event/' || made,
              jsonb_build_object('endpoint', to_endpoint, 'event_id', delivery), '', '');
    END IF;
    RETURN QUERY
      SELECT e.id, e.state, made IS NULL, e.body_hash = sha256(raw)
      FROM prefect_n8n.webhook_events e
      WHERE e.tenant_id = for_tenant AND e.endpoint_id = endpoint AND e.event_id = delivery;
  END IF;
  PERFORM set_config('role', role_before, true),
          set_config('prefect_n8n.tenant_id', tenant_before, true);
END
$$;
REVOKE ALL ON FUNCTION prefect_n8n.record_delivery(
  uuid, text, text, text, bytea, text, double precision, text, uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION prefect_n8n.record_delivery(
  uuid, text, text, text, bytea, text, double precision, text, uuid, text) TO prefect_n8n_app;
