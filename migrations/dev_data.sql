-- A little of everything to develop against; it fits examples/orders.py. What is there already, also
-- where it was changed meanwhile, stays as it is. dev_data.py sets role and tenant first.

WITH made AS (
  INSERT INTO prefect_n8n.webhook_endpoints (tenant_id, id, slug, direction, url)
  SELECT current_setting('prefect_n8n.tenant_id')::uuid, gen_random_uuid(), seed.slug, seed.direction,
         seed.url
  FROM (VALUES ('orders', 'inbound', NULL), ('crm', 'outbound', 'prefect-delivery-standard'))
    AS seed (slug, direction, url)
  ON CONFLICT (tenant_id, slug) DO NOTHING
  RETURNING tenant_id, slug, direction
)
INSERT INTO prefect_n8n.audit_log (tenant_id, seq, actor, action, subject, after, previous_hash, hash)
SELECT tenant_id, 0, 'dev-data', 'endpoint.saved', 'endpoint/' || slug,
       jsonb_build_object('slug', slug, 'direction', direction), '', ''
FROM made ORDER BY slug;

-- The second one is paused: nothing deploys what it would start.
WITH made AS (
  INSERT INTO prefect_n8n.workflow_triggers (tenant_id, id, endpoint_id, name, types, deployment, state)
  SELECT e.tenant_id, gen_random_uuid(), e.id, seed.name, seed.types, seed.deployment, seed.state
  FROM (VALUES
      ('on-order', ARRAY['order.*'], 'on-order/orders', 'on'),
      ('archive', ARRAY['*'], 'archive/orders', 'paused')
    ) AS seed (name, types, deployment, state)
  JOIN prefect_n8n.webhook_endpoints e ON e.slug = 'orders'
  ON CONFLICT (tenant_id, endpoint_id, name) DO NOTHING
  RETURNING tenant_id, name, types, deployment, state
)
INSERT INTO prefect_n8n.audit_log (tenant_id, seq, actor, action, subject, after, previous_hash, hash)
SELECT tenant_id, 0, 'dev-data', 'trigger.saved', 'trigger/' || name,
       jsonb_build_object('name', name, 'types', types, 'deployment', deployment, 'state', state),
       '', ''
FROM made ORDER BY name;

-- Paused, because neither side is there until a developer makes it.
WITH made AS (
  INSERT INTO prefect_n8n.data_sync_configs
    (tenant_id, id, name, left_side, right_side, key_fields, policy, schedule, state)
  VALUES (
    current_setting('prefect_n8n.tenant_id')::uuid, gen_random_uuid(), 'customers',
    '{"kind": "sql_table", "table": "customers"}', '{"kind": "n8n_data_table", "table": "customers"}',
    ARRAY['email'], 'newest', '*/15 * * * *', 'paused')
  ON CONFLICT (tenant_id, name) DO NOTHING
  RETURNING tenant_id, name
)
INSERT INTO prefect_n8n.audit_log (tenant_id, seq, actor, action, subject, previous_hash, hash)
SELECT tenant_id, 0, 'dev-data', 'sync.saved', 'sync/' || name, '', '' FROM made;
