-- The seven tables. ledger/tables.py says what each column holds; a test keeps both equal.

CREATE TABLE prefect_n8n.webhook_endpoints (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  slug TEXT NOT NULL,
  direction TEXT DEFAULT 'inbound' NOT NULL,
  state TEXT DEFAULT 'on' NOT NULL,
  scheme TEXT DEFAULT 'standard' NOT NULL,
  scheme_options JSONB DEFAULT '{}'::jsonb NOT NULL,
  credentials_block TEXT DEFAULT 'default' NOT NULL,
  event_id_field TEXT DEFAULT 'id' NOT NULL,
  event_type_field TEXT DEFAULT 'type' NOT NULL,
  max_body INTEGER DEFAULT 1048576 NOT NULL,
  token_hash BYTEA,
  created_at timestamptz DEFAULT now() NOT NULL,
  updated_at timestamptz DEFAULT now() NOT NULL,
  CONSTRAINT pk_webhook_endpoints PRIMARY KEY (tenant_id, id),
  CONSTRAINT uq_webhook_endpoints_tenant_id_slug UNIQUE (tenant_id, slug),
  CONSTRAINT uq_webhook_endpoints_tenant_id_token_hash UNIQUE (tenant_id, token_hash),
  CONSTRAINT ck_webhook_endpoints_direction CHECK (direction IN ('inbound', 'outbound')),
  CONSTRAINT ck_webhook_endpoints_state CHECK (state IN ('on', 'paused')),
  CONSTRAINT ck_webhook_endpoints_slug_shape CHECK (slug ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  CONSTRAINT ck_webhook_endpoints_max_body_range CHECK (max_body BETWEEN 16384 AND 26214400),
  CONSTRAINT ck_webhook_endpoints_token_hash_is_sha256 CHECK (octet_length(token_hash) = 32)
);

CREATE INDEX ix_webhook_endpoints_token_hash ON prefect_n8n.webhook_endpoints (token_hash);

CREATE TABLE prefect_n8n.webhook_events (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  endpoint_id UUID NOT NULL,
  event_id TEXT NOT NULL,
  type TEXT DEFAULT '' NOT NULL,
  body BYTEA NOT NULL,
  body_hash BYTEA NOT NULL,
  payload JSONB NOT NULL,
  headers JSONB DEFAULT '{}'::jsonb NOT NULL,
  traceparent TEXT,
  state TEXT DEFAULT 'pending' NOT NULL,
  reason TEXT,
  claims INTEGER DEFAULT 0 NOT NULL,
  redrive INTEGER DEFAULT 0 NOT NULL,
  received_at timestamptz DEFAULT now() NOT NULL,
  scheduled_at timestamptz DEFAULT now() NOT NULL,
  lease_owner TEXT,
  lease_expires_at timestamptz,
  finalized_at timestamptz,
  errors TEXT[] DEFAULT '{}'::text[] NOT NULL,
  CONSTRAINT pk_webhook_events PRIMARY KEY (tenant_id, id),
  CONSTRAINT uq_webhook_events_tenant_id_endpoint_id_event_id UNIQUE (tenant_id, endpoint_id, event_id),
  CONSTRAINT fk_webhook_events_webhook_endpoints FOREIGN KEY (tenant_id, endpoint_id)
    REFERENCES prefect_n8n.webhook_endpoints (tenant_id, id),
  CONSTRAINT ck_webhook_events_state CHECK (state IN ('pending', 'processing', 'retryable', 'completed', 'dead', 'cancelled')),
  CONSTRAINT ck_webhook_events_body_hash_is_sha256 CHECK (octet_length(body_hash) = 32),
  CONSTRAINT ck_webhook_events_event_id_length CHECK (length(event_id) BETWEEN 1 AND 256),
  CONSTRAINT ck_webhook_events_type_length CHECK (length(type) <= 256),
  CONSTRAINT ck_webhook_events_lease_is_whole CHECK ((lease_owner IS NULL) = (lease_expires_at IS NULL)),
  CONSTRAINT ck_webhook_events_lease_only_processing CHECK (lease_owner IS NULL OR state = 'processing'),
  CONSTRAINT ck_webhook_events_finalized_when_final CHECK ((finalized_at IS NOT NULL) = (state IN ('completed', 'dead', 'cancelled')))
);

CREATE INDEX ix_webhook_events_due ON prefect_n8n.webhook_events (scheduled_at)
  WHERE state IN ('pending', 'retryable');

CREATE INDEX ix_webhook_events_lease ON prefect_n8n.webhook_events (lease_expires_at)
  WHERE lease_owner IS NOT NULL;

CREATE INDEX ix_webhook_events_listing ON prefect_n8n.webhook_events (tenant_id, received_at, id);

CREATE INDEX ix_webhook_events_state ON prefect_n8n.webhook_events (tenant_id, state, received_at);

CREATE TABLE prefect_n8n.workflow_triggers (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  endpoint_id UUID NOT NULL,
  name TEXT NOT NULL,
  types TEXT[] DEFAULT '{}'::text[] NOT NULL,
  deployment TEXT NOT NULL,
  parameters JSONB,
  state TEXT DEFAULT 'on' NOT NULL,
  created_at timestamptz DEFAULT now() NOT NULL,
  updated_at timestamptz DEFAULT now() NOT NULL,
  CONSTRAINT pk_workflow_triggers PRIMARY KEY (tenant_id, id),
  CONSTRAINT uq_workflow_triggers_tenant_id_endpoint_id_name UNIQUE (tenant_id, endpoint_id, name),
  CONSTRAINT fk_workflow_triggers_webhook_endpoints FOREIGN KEY (tenant_id, endpoint_id)
    REFERENCES prefect_n8n.webhook_endpoints (tenant_id, id),
  CONSTRAINT ck_workflow_triggers_state CHECK (state IN ('on', 'paused', 'retired')),
  CONSTRAINT ck_workflow_triggers_has_types CHECK (cardinality(types) > 0),
  CONSTRAINT ck_workflow_triggers_deployment_is_flow_slash_name CHECK (deployment ~ '^[^/]+/[^/]+$')
);

CREATE TABLE prefect_n8n.workflow_executions (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  webhook_event_id UUID NOT NULL,
  trigger_id UUID NOT NULL,
  redrive INTEGER DEFAULT 0 NOT NULL,
  engine TEXT DEFAULT 'prefect' NOT NULL,
  state TEXT DEFAULT 'pending' NOT NULL,
  flow_run_id UUID,
  n8n_workflow_id TEXT,
  n8n_execution_id TEXT,
  rescues INTEGER DEFAULT 0 NOT NULL,
  lease_owner TEXT,
  lease_expires_at timestamptz,
  created_at timestamptz DEFAULT now() NOT NULL,
  started_at timestamptz,
  finished_at timestamptz,
  error TEXT,
  link TEXT,
  CONSTRAINT pk_workflow_executions PRIMARY KEY (tenant_id, id),
  CONSTRAINT uq_workflow_executions_tenant_id_webhook_event_id_trigg_ac8f UNIQUE (tenant_id, webhook_event_id, trigger_id, redrive),
  CONSTRAINT uq_workflow_executions_tenant_id_flow_run_id UNIQUE (tenant_id, flow_run_id),
  CONSTRAINT fk_workflow_executions_webhook_events FOREIGN KEY (tenant_id, webhook_event_id)
    REFERENCES prefect_n8n.webhook_events (tenant_id, id),
  CONSTRAINT fk_workflow_executions_workflow_triggers FOREIGN KEY (tenant_id, trigger_id)
    REFERENCES prefect_n8n.workflow_triggers (tenant_id, id),
  CONSTRAINT ck_workflow_executions_engine CHECK (engine IN ('prefect', 'n8n')),
  CONSTRAINT ck_workflow_executions_state CHECK (state IN ('pending', 'launched', 'running', 'completed', 'failed', 'cancelled', 'dead')),
  CONSTRAINT ck_workflow_executions_lease_is_whole CHECK ((lease_owner IS NULL) = (lease_expires_at IS NULL)),
  CONSTRAINT ck_workflow_executions_finished_when_final CHECK ((finished_at IS NOT NULL) = (state IN ('completed', 'failed', 'cancelled', 'dead'))),
  CONSTRAINT ck_workflow_executions_launched_has_run CHECK (state IN ('pending', 'dead') OR flow_run_id IS NOT NULL OR engine = 'n8n')
);

CREATE INDEX ix_workflow_executions_listing ON prefect_n8n.workflow_executions (tenant_id, created_at, id);

CREATE INDEX ix_workflow_executions_run ON prefect_n8n.workflow_executions (flow_run_id)
  WHERE finished_at IS NULL;

CREATE TABLE prefect_n8n.data_sync_configs (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  name TEXT NOT NULL,
  left_side JSONB NOT NULL,
  right_side JSONB NOT NULL,
  key_fields TEXT[] DEFAULT '{}'::text[] NOT NULL,
  field_owners JSONB DEFAULT '{}'::jsonb NOT NULL,
  policy TEXT DEFAULT 'newest' NOT NULL,
  cursor JSONB,
  schedule TEXT,
  state TEXT DEFAULT 'on' NOT NULL,
  created_at timestamptz DEFAULT now() NOT NULL,
  updated_at timestamptz DEFAULT now() NOT NULL,
  CONSTRAINT pk_data_sync_configs PRIMARY KEY (tenant_id, id),
  CONSTRAINT uq_data_sync_configs_tenant_id_name UNIQUE (tenant_id, name),
  CONSTRAINT ck_data_sync_configs_policy CHECK (policy IN ('left', 'right', 'newest', 'manual')),
  CONSTRAINT ck_data_sync_configs_state CHECK (state IN ('on', 'paused')),
  CONSTRAINT ck_data_sync_configs_has_key CHECK (cardinality(key_fields) > 0)
);

CREATE TABLE prefect_n8n.api_tokens (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  name TEXT NOT NULL,
  token_hash BYTEA NOT NULL,
  scopes TEXT[] DEFAULT '{}'::text[] NOT NULL,
  created_at timestamptz DEFAULT now() NOT NULL,
  expires_at timestamptz,
  last_used_at timestamptz,
  CONSTRAINT pk_api_tokens PRIMARY KEY (tenant_id, id),
  CONSTRAINT uq_api_tokens_tenant_id_name UNIQUE (tenant_id, name),
  CONSTRAINT uq_api_tokens_tenant_id_token_hash UNIQUE (tenant_id, token_hash),
  CONSTRAINT ck_api_tokens_known_scopes CHECK (scopes <@ ARRAY['read', 'send', 'admin']),
  CONSTRAINT ck_api_tokens_token_hash_is_sha256 CHECK (octet_length(token_hash) = 32)
);

CREATE INDEX ix_api_tokens_token_hash ON prefect_n8n.api_tokens (token_hash);

CREATE TABLE prefect_n8n.audit_log (
  tenant_id UUID NOT NULL,
  seq BIGINT NOT NULL,
  at timestamptz DEFAULT now() NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  before JSONB,
  after JSONB,
  reason TEXT,
  previous_hash BYTEA NOT NULL,
  hash BYTEA NOT NULL,
  CONSTRAINT pk_audit_log PRIMARY KEY (tenant_id, seq)
);
