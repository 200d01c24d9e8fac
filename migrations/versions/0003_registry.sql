-- What the registry keeps besides: a JSON Schema for the bodies of an inbound endpoint, and its rate.

ALTER TABLE prefect_n8n.webhook_endpoints
  ADD COLUMN body_schema jsonb,
  ADD COLUMN rate_limit double precision,
  ADD CONSTRAINT ck_webhook_endpoints_rate_limit_range CHECK (rate_limit > 0 AND rate_limit <= 100000);
