-- Deliveries: what outbound endpoints need, and the children attempts, fallbacks and redrives.
-- ledger/tables.py and ledger/children.py say what each column holds; a test keeps both equal.

ALTER TABLE prefect_n8n.webhook_endpoints
  ADD COLUMN url TEXT,
  ADD COLUMN n8n_workflow_id TEXT,
  ADD COLUMN timeout_seconds DOUBLE PRECISION DEFAULT 30 NOT NULL,
  ADD COLUMN max_in_flight INTEGER DEFAULT 8 NOT NULL,
  ADD COLUMN retry_policy JSONB DEFAULT '{}'::jsonb NOT NULL,
  ADD COLUMN success_rule JSONB DEFAULT '{}'::jsonb NOT NULL,
  ADD COLUMN on_unknown TEXT DEFAULT 'ask' NOT NULL,
  ADD COLUMN fallback JSONB DEFAULT '[]'::jsonb NOT NULL,
  ADD COLUMN breaker TEXT DEFAULT 'closed' NOT NULL,
  ADD COLUMN breaker_until timestamptz,
  ADD COLUMN failures INTEGER DEFAULT 0 NOT NULL,
  ADD COLUMN failing_since timestamptz,
  ADD COLUMN state_reason TEXT,
  DROP CONSTRAINT ck_webhook_endpoints_state,
  ADD CONSTRAINT ck_webhook_endpoints_state CHECK (state IN ('on', 'paused', 'disabled')),
  ADD CONSTRAINT ck_webhook_endpoints_breaker CHECK (breaker IN ('closed', 'open', 'half_open')),
  ADD CONSTRAINT ck_webhook_endpoints_on_unknown CHECK (on_unknown IN ('ask', 'resend')),
  ADD CONSTRAINT ck_webhook_endpoints_timeout_range CHECK (timeout_seconds BETWEEN 1 AND 300),
  ADD CONSTRAINT ck_webhook_endpoints_max_in_flight_range CHECK (max_in_flight BETWEEN 1 AND 64);

ALTER TABLE prefect_n8n.webhook_events
  ADD COLUMN direction TEXT DEFAULT 'inbound' NOT NULL,
  ADD COLUMN attempts INTEGER DEFAULT 0 NOT NULL,
  ADD COLUMN target_url TEXT,
  ADD COLUMN callback_url TEXT,
  ADD COLUMN parent_event_id UUID,
  ADD COLUMN flow_run_id UUID,
  ADD CONSTRAINT fk_webhook_events_webhook_events FOREIGN KEY (tenant_id, parent_event_id)
    REFERENCES prefect_n8n.webhook_events (tenant_id, id),
  ADD CONSTRAINT ck_webhook_events_direction CHECK (direction IN ('inbound', 'outbound'));

DROP INDEX prefect_n8n.ix_webhook_events_due;

CREATE INDEX ix_webhook_events_due ON prefect_n8n.webhook_events (scheduled_at)
  WHERE direction = 'inbound' AND state IN ('pending', 'retryable');

CREATE INDEX ix_webhook_events_outbox ON prefect_n8n.webhook_events (tenant_id, endpoint_id, scheduled_at)
  WHERE direction = 'outbound' AND state IN ('pending', 'retryable');

CREATE INDEX ix_webhook_events_parent ON prefect_n8n.webhook_events (tenant_id, parent_event_id)
  WHERE parent_event_id IS NOT NULL;

ALTER TABLE prefect_n8n.workflow_triggers ADD COLUMN fallback JSONB DEFAULT '[]'::jsonb NOT NULL;

ALTER TABLE prefect_n8n.workflow_executions
  ADD COLUMN result JSONB,
  DROP CONSTRAINT ck_workflow_executions_launched_has_run,
  ADD CONSTRAINT ck_workflow_executions_launched_has_run CHECK (state NOT IN ('launched', 'running') OR flow_run_id IS NOT NULL OR engine = 'n8n'),
  DROP CONSTRAINT ck_workflow_executions_state,
  ADD CONSTRAINT ck_workflow_executions_state CHECK (state IN ('pending', 'launched', 'running', 'falling_back', 'completed', 'failed', 'cancelled', 'dead'));

CREATE TABLE prefect_n8n.redrives (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  selection JSONB NOT NULL,
  rate DOUBLE PRECISION NOT NULL,
  events INTEGER NOT NULL,
  actor TEXT NOT NULL,
  created_at timestamptz DEFAULT now() NOT NULL,
  CONSTRAINT pk_redrives PRIMARY KEY (tenant_id, id)
);

CREATE TABLE prefect_n8n.webhook_attempts (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  webhook_event_id UUID NOT NULL,
  endpoint_id UUID NOT NULL,
  redrive INTEGER DEFAULT 0 NOT NULL,
  number INTEGER NOT NULL,
  outcome TEXT DEFAULT 'open' NOT NULL,
  status INTEGER,
  headers JSONB,
  body BYTEA,
  error TEXT,
  started_at timestamptz DEFAULT now() NOT NULL,
  finished_at timestamptz,
  seconds DOUBLE PRECISION,
  owner TEXT NOT NULL,
  flow_run_id UUID,
  n8n_execution_id TEXT,
  CONSTRAINT pk_webhook_attempts PRIMARY KEY (tenant_id, id),
  CONSTRAINT uq_webhook_attempts_tenant_id_webhook_event_id_number UNIQUE (tenant_id, webhook_event_id, number),
  CONSTRAINT fk_webhook_attempts_webhook_events FOREIGN KEY (tenant_id, webhook_event_id) REFERENCES prefect_n8n.webhook_events (tenant_id, id),
  CONSTRAINT fk_webhook_attempts_webhook_endpoints FOREIGN KEY (tenant_id, endpoint_id) REFERENCES prefect_n8n.webhook_endpoints (tenant_id, id),
  CONSTRAINT ck_webhook_attempts_outcome CHECK (outcome IN ('open', 'delivered', 'failed', 'not_sent', 'unknown', 'refused', 'snoozed')),
  CONSTRAINT ck_webhook_attempts_number_from_one CHECK (number > 0),
  CONSTRAINT ck_webhook_attempts_finished_when_closed CHECK ((finished_at IS NULL) = (outcome = 'open')),
  CONSTRAINT ck_webhook_attempts_body_is_capped CHECK (octet_length(body) <= 16384)
);

CREATE INDEX ix_webhook_attempts_window ON prefect_n8n.webhook_attempts (tenant_id, endpoint_id, finished_at);

CREATE TABLE prefect_n8n.fallbacks (
  tenant_id UUID NOT NULL,
  id UUID NOT NULL,
  webhook_event_id UUID NOT NULL,
  execution_id UUID,
  subject_id UUID NOT NULL,
  redrive INTEGER DEFAULT 0 NOT NULL,
  ladder JSONB NOT NULL,
  step INTEGER DEFAULT 0 NOT NULL,
  state TEXT DEFAULT 'pending' NOT NULL,
  claims INTEGER DEFAULT 0 NOT NULL,
  cause TEXT NOT NULL,
  reason TEXT,
  created_at timestamptz DEFAULT now() NOT NULL,
  scheduled_at timestamptz DEFAULT now() NOT NULL,
  finished_at timestamptz,
  lease_owner TEXT,
  lease_expires_at timestamptz,
  flow_run_id UUID,
  CONSTRAINT pk_fallbacks PRIMARY KEY (tenant_id, id),
  CONSTRAINT uq_fallbacks_tenant_id_subject_id_redrive UNIQUE (tenant_id, subject_id, redrive),
  CONSTRAINT fk_fallbacks_webhook_events FOREIGN KEY (tenant_id, webhook_event_id) REFERENCES prefect_n8n.webhook_events (tenant_id, id),
  CONSTRAINT fk_fallbacks_workflow_executions FOREIGN KEY (tenant_id, execution_id) REFERENCES prefect_n8n.workflow_executions (tenant_id, id),
  CONSTRAINT ck_fallbacks_state CHECK (state IN ('pending', 'processing', 'completed', 'dead')),
  CONSTRAINT ck_fallbacks_lease_is_whole CHECK ((lease_owner IS NULL) = (lease_expires_at IS NULL)),
  CONSTRAINT ck_fallbacks_lease_only_processing CHECK (lease_owner IS NULL OR state = 'processing'),
  CONSTRAINT ck_fallbacks_finished_when_final CHECK ((finished_at IS NOT NULL) = (state IN ('completed', 'dead')))
);

CREATE INDEX ix_fallbacks_due ON prefect_n8n.fallbacks (scheduled_at) WHERE finished_at IS NULL;

CREATE INDEX ix_fallbacks_event ON prefect_n8n.fallbacks (tenant_id, webhook_event_id);

CREATE TABLE prefect_n8n.fallback_steps (
  tenant_id UUID NOT NULL,
  fallback_id UUID NOT NULL,
  number INTEGER NOT NULL,
  kind TEXT NOT NULL,
  target TEXT NOT NULL,
  state TEXT DEFAULT 'started' NOT NULL,
  ref TEXT,
  error TEXT,
  started_at timestamptz DEFAULT now() NOT NULL,
  finished_at timestamptz,
  CONSTRAINT pk_fallback_steps PRIMARY KEY (tenant_id, fallback_id, number),
  CONSTRAINT fk_fallback_steps_fallbacks FOREIGN KEY (tenant_id, fallback_id) REFERENCES prefect_n8n.fallbacks (tenant_id, id),
  CONSTRAINT ck_fallback_steps_kind CHECK (kind IN ('endpoint', 'workflow', 'deployment', 'notification')),
  CONSTRAINT ck_fallback_steps_state CHECK (state IN ('started', 'completed', 'failed')),
  CONSTRAINT ck_fallback_steps_finished_when_final CHECK ((finished_at IS NOT NULL) = (state <> 'started'))
);

